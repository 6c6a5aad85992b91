"""A suite as a person reads it: terminal table and self-contained page, both pure functions of ``suite.json``."""
