"""Training examples: the store on disk, and the samplers that draw from it."""
