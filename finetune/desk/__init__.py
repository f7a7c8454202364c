"""Training and evaluation of the reply ranker."""
