"""What fits the ranking core: parts, blend, forests, the next-item transformer."""
