"""The recommendation agent: the facade `Agent`, the operations, and one package for each part of an answer."""
