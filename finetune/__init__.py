"""Training models on interaction data, and measuring them."""
