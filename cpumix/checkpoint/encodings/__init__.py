"""How the bytes of a stored tensor become numbers."""
