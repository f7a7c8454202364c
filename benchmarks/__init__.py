"""Benchmarks: the measurements behind the figures that the project publishes."""
