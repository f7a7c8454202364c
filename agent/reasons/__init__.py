"""The reasons why posts are shown: their texts, and the checks that every claim must pass."""
