"""One open connection, from the opening handshake over a transport to its end."""
