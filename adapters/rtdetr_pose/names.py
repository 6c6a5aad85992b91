"""Class and keypoint names by index."""

from adapters._shared.coco import COCO_NAMES

__all__ = ["COCO_NAMES", "KEYPOINT_NAMES", "KEYPOINT_SIGMAS", "KEYPOINT_SWAP", "SHAPES_NAMES", "SHAPES_SYMMETRIES"]

SHAPES_NAMES = ("disc", "notched_disc", "square", "rounded_square", "star5", "star6", "cross", "quadruped")
"""Categories of the generated set ``shapes``."""
SHAPES_SYMMETRIES = (0, 1, 4, 4, 5, 6, 4, 1)
"""Turns about its own normal that leave an object of each class unchanged; 0: every turn does."""
KEYPOINT_SWAP = (1, 0, 2, 3, 4, 8, 9, 10, 5, 6, 7, 14, 15, 16, 11, 12, 13)
"""AP-10K keypoint that each of the 17 becomes in a mirrored image: left and right change places."""
KEYPOINT_NAMES = (
    "l_eye", "r_eye", "nose", "neck", "root_of_tail", "l_shoulder", "l_elbow", "l_f_paw", "r_shoulder", "r_elbow",
    "r_f_paw", "l_hip", "l_knee", "l_b_paw", "r_hip", "r_knee", "r_b_paw",
)  # fmt: skip
"""Of AP-10K, in the order of its annotations; the figures of `shapes` have them."""
KEYPOINT_SIGMAS = (
    0.025, 0.025, 0.026, 0.035, 0.035, 0.079, 0.072, 0.062, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089, 0.107, 0.087,
    0.089,
)  # fmt: skip
"""How far off an annotator puts each of them, in roots of the object's area."""
