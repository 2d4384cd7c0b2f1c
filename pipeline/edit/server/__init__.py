"""The studio's thin shell: HTTP and WebSocket around worker processes."""
