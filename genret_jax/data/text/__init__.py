"""Text as words, tokens and vectors."""
