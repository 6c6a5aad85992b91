"""JSON Schema files, one per document kind."""
