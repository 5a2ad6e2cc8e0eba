"""Life on a line: decisions on images as they come, kept in a store and handed on."""
