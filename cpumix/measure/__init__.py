"""Measurements of a model: speed, quality, what it takes in memory."""
