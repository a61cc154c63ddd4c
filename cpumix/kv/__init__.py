"""Keys and values of earlier positions."""
