"""Class names by label."""

from adapters._shared.coco import COCO_NAMES

__all__ = ["COCO_NAMES", "SHAPES_NAMES"]

SHAPES_NAMES = ("disc", "notched_disc", "square", "rounded_square", "star5", "star6", "cross", "quadruped")
"""Categories of the generated set ``shapes``."""
