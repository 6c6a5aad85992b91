"""backend-parity: is it still the same model, and how much faster is it?"""

__version__ = "0.1.0"
