"""Training examples: the store on disk, and what is drawn from it."""
