"""Conversations with a user: each turn is planned by rules or by a model that calls tools."""
