"""What a model needs in memory and what this process may use: arithmetic over the other rooms."""
