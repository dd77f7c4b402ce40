"""What a user would pick instead of a generative index, on the same data: BM25 and a dual encoder."""
