"""One request from words to a checked answer: the Agent, the state it shares, and the rooms of its parts."""
