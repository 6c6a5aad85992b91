"""Across runs: two runs compared, a baseline of several, and the history of many."""
