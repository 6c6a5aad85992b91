"""Small complete adapters to start from."""
