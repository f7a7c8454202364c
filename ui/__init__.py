"""How people reach whyfeed: the page, the command line."""
