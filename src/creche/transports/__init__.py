"""How bytes move. Nothing here knows of WebSocket."""
