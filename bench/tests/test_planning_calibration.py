"""Which images calibrate int8 when nobody says so: the set's own, never those of the evaluation."""

import cv2
import numpy as np

from bench import planning
from bench.events import Silent
from bench.fixtures import resolve
from bench.matrix import Request
from bench.registry import load_adapter


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def yolo_folder(root, splits):
    for number, split in enumerate(splits):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        cv2.imwrite(str(root / "images" / split / "a.png"), np.full((8, 8, 3), 50 * number, np.uint8))
        (root / "labels" / split / "a.txt").write_text("0 .5 .5 .5 .5\n")
    return root


def calibration_of(root):
    notes = Notes()
    request = Request(fixtures=str(root), precisions=("int8",))
    found, label = planning._calibration(request, load_adapter("yolov10n").spec, resolve(str(root)), notes)
    return found, label, notes.notes


def test_a_folder_with_a_train_split_calibrates_on_it(tmp_path):
    root = yolo_folder(tmp_path / "mine", ("train", "val"))
    found, label, notes = calibration_of(root)
    assert [s.path.parent.name for s in found.samples] == ["train"]
    assert "mine" in label
    assert "train" in label or "calibration" in label
    assert notes == []


def test_a_folder_without_splits_calibrates_out_of_domain_and_says_so(tmp_path):
    root = tmp_path / "whole"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    cv2.imwrite(str(root / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (root / "labels" / "a.txt").write_text("0 .5 .5 .5 .5\n")
    found, label, notes = calibration_of(root)
    assert found.name == "shapes"
    assert "out of domain" in label
    assert "--calibration DIR" in notes[0]
