"""Run directories: the only place that knows the names of their files."""
