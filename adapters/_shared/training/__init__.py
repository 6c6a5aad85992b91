"""The training engine that every model shares: data, augmentation, the run and its files."""
