"""Post encoder: hidden states of a causal language model as vectors of posts, computed in numpy or by a server."""
