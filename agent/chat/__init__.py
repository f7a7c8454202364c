"""Conversations with a reader: each turn is planned by rules or by a model that calls tools."""
