"""PaDiM in pure functions over immutable records; nothing here reads or writes a file."""
