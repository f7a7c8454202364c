"""What is known and what could be shown: store, exchange, embeddings, index, profiles, candidate sources."""
