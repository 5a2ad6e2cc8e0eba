"""One module for each ``padim`` command."""
