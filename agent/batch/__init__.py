"""Recommendations for many users, written to a file; an interrupted run can be resumed."""
