"""Many texts through one model: jobs, their scheduler, and the thread that computes."""
