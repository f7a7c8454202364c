"""Language models behind one interface: engines, the roles they serve, their weights, and a vLLM server."""
