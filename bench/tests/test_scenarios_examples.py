"""The image that stands for a scenario on the page."""

from dataclasses import replace

import numpy as np

from bench import testing
from bench.fixtures import resolve
from bench.scenarios.examples import choose_image, example_of
from bench.scoring import Detections


def found_at(boxes_xywh, image_id, scores):
    count = len(boxes_xywh)
    return Detections(
        np.full(count, image_id, np.int64),
        np.ones(count, np.int64),
        np.array(boxes_xywh, np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
    )


def one_image(folder, boxes, crowd=()):
    fixtures = resolve(str(testing.fake_folder(folder / "fakes", 2)))
    image_id = fixtures.samples[0].image_id
    truth = tuple(
        {"id": n + 1, "image_id": image_id, "category_id": 1, "bbox": bbox, "area": bbox[2] * bbox[3],
         "iscrowd": int(n in crowd)}
        for n, bbox in enumerate(boxes)
    )  # fmt: skip
    return replace(fixtures, annotations=truth), image_id


def test_only_objects_that_count_are_drawn_and_nothing_that_was_found_on_others(tmp_path):
    fixtures, image_id = one_image(tmp_path, [[0, 0, 40, 40], [50, 50, 8, 8], [20, 44, 10, 10]], crowd=(2,))
    detections = found_at(
        [[0, 0, 40, 40], [50, 50, 9, 8], [20, 44, 10, 10], [2, 55, 6, 6], [30, 0, 30, 30]], image_id, [0.9] * 5
    )
    shown = example_of(fixtures, detections, image_id, (0, 100))
    assert [b.box_xyxy for b in shown.truth] == [(50, 50, 58, 58)]
    assert {b.box_xyxy for b in shown.detections} == {(50, 50, 59, 58), (2, 55, 8, 61)}


def test_faint_detections_are_not_drawn_and_the_best_come_first(tmp_path):
    fixtures, image_id = one_image(tmp_path, [[0, 0, 20, 20]])
    boxes = [[1, 1, 20, 20], [0, 0, 20, 20], [40, 40, 9, 9]]
    shown = example_of(fixtures, found_at(boxes, image_id, [0.3, 0.8, 0.24]), image_id)
    assert [b.score for b in shown.detections] == [0.8, 0.3]
    assert shown.thumb


def test_the_image_has_about_five_objects_that_count(tmp_path):
    fixtures = resolve(str(testing.fake_folder(tmp_path / "fakes", 3)))
    ids = [s.image_id for s in fixtures.samples]
    rows = [(ids[0], 4)] * 3 + [(ids[1], 4)] * 9 + [(ids[2], 4)] * 4 + [(ids[0], 900)]
    truth = tuple(
        {"id": n + 1, "image_id": i, "category_id": 1, "bbox": [0, 0, 2, area / 2], "area": area, "iscrowd": 0}
        for n, (i, area) in enumerate(rows)
    )
    fixtures = replace(fixtures, annotations=truth)
    assert choose_image(fixtures) == ids[0]
    assert choose_image(fixtures, (0, 10)) == ids[2]
