"""Understanding a message: from its text to a `Request`, by rules, a trained classifier, topics and references."""
