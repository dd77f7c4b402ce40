"""Public checkpoints in and out: the layouts of Hugging Face and t5x."""
