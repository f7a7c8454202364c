"""Interaction data into models."""
