"""What the documentation says of reliability, checked by trying to break it: `make reliability`."""
