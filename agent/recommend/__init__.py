"""From a `Request` to a ranked list: pipeline, filters, ranker, judge, and the operations on a user's rules."""
