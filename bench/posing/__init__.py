"""How far off the pose of an object is: rotation, depth, translation, keypoints; and intervals of their differences."""

from __future__ import annotations

from bench.posing.measuring import Posed, measure
from bench.posing.truth import PoseTruth, pose_truth
from bench.posing.verdict import judge_pose

__all__ = ["PoseTruth", "Posed", "judge_pose", "measure", "pose_truth"]
