"""Reply suggestions for customer service: candidates, ranking, grounding and actions that a person approves."""
