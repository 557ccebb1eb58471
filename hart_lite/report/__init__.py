"""Pages and pictures made of runs and evaluations."""
