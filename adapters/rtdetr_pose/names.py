"""Class and keypoint names by index."""

from adapters._shared.coco import COCO_NAMES

__all__ = ["COCO_NAMES", "KEYPOINT_SWAP", "SHAPES_NAMES", "SHAPES_SYMMETRIES"]

SHAPES_NAMES = ("disc", "notched_disc", "square", "rounded_square", "star5", "star6", "cross", "quadruped")
"""Categories of the generated set ``shapes``."""
SHAPES_SYMMETRIES = (0, 1, 4, 4, 5, 6, 4, 1)
"""Turns about its own normal that leave an object of each class unchanged; 0: every turn does."""
KEYPOINT_SWAP = (1, 0, 2, 3, 4, 8, 9, 10, 5, 6, 7, 14, 15, 16, 11, 12, 13)
"""AP-10K keypoint that each of the 17 becomes in a mirrored image: left and right change places."""
