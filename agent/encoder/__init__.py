"""A language model in numpy that reads each post once and returns a vector."""
