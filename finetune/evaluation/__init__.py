"""Rankers measured on held-out data: protocol, baselines, metrics, report."""
