"""The forward pass, and nothing else."""
