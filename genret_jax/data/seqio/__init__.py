"""The same examples as seqio tasks: the only room that imports seqio or TensorFlow."""
