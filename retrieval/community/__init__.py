"""A community in memory: embeddings, index, co-occurrence, readers, signals and candidate sources."""
