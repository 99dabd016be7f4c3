"""The opening handshake without I/O: requests, answers, and what both sides make of them."""
