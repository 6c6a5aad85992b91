"""The harness proves that it can fail: planted faults, the checks that must see them, and changes that are none."""
