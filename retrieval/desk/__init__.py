"""Customer conversations, saved replies, and the search for similar past situations."""
