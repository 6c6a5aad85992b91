"""Predictions files: COCO results and three other forms, read with errors that name the place, written atomically."""

from bench.predictions.read import BOX_FORMATS, PredictionsFile, read_predictions
from bench.predictions.write import write_predictions

__all__ = ["BOX_FORMATS", "PredictionsFile", "read_predictions", "write_predictions"]
