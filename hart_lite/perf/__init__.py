"""Memory plans and the speed benchmark."""
