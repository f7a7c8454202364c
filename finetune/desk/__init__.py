"""Training and measuring the ranker of replies."""
