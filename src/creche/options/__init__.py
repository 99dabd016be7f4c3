"""The options of connect() and serve(): declared once, with their defaults, and checked."""
