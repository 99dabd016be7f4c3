"""The ways to serve, and what befalls each client."""
