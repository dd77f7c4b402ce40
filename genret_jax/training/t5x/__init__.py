"""Training and inference with t5x: the only room that imports it."""
