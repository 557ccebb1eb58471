"""What the project promises, measured: `make trust`."""
