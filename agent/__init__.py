"""One request from words to a checked answer."""
