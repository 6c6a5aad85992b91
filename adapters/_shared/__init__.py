"""Code that more than one adapter needs."""
