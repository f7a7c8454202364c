"""The SQLite database: posts, users, the event ledger, conversations, keys, and the exchange format."""
