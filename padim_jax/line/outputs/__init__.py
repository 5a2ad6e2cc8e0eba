"""Where decisions are handed on to, one kind a file."""
