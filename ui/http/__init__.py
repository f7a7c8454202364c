"""The HTTP service: routes, access keys, jobs, metrics."""
