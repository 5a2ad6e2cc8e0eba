"""What a folder or a model looks like, and what a fit and a score will take."""
