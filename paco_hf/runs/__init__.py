"""The run folder: its files, its record, what of it is public, and where training can resume."""
