"""From a message to a `Request`: rules, a trained classifier, topics and references."""
