"""How people and programs reach whyfeed: page, command line, HTTP and MCP."""
