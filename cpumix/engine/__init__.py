"""Many texts through one model: what a request is, and what it leaves behind."""
