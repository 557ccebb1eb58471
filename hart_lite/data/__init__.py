"""Training and evaluation rows: reading, checking, converting and writing them, and their images."""
