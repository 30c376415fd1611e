"""HTTP/1.1 over llhttp: the server, the client, and what both share. No HTTP is parsed by hand (design.md)."""
