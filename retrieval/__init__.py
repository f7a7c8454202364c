"""The data of a home and the search in it: value types, database, privacy, community in memory, service desk."""
