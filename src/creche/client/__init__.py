"""The ways to connect."""
