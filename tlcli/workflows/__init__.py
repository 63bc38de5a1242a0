"""One workflow per command, each read from top to bottom."""
