"""What the columns of annotations let pass, the check of each entry lets pass too."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import annotations
from bench.annotations import check_annotations
from bench.errors import InputError

IMAGES, CATEGORIES = {3, 7}, {2: {"id": 2}, 5: {"id": 5}}
PLAIN: list[dict[str, Any]] = [
    {"id": 11, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3.5, 4], "area": 9.0, "iscrowd": 0},
    {"id": 4, "image_id": 3, "category_id": 5, "bbox": [0, 0, 8, 8], "area": 64, "iscrowd": 1},
    {"id": 5, "image_id": 3, "category_id": 5, "bbox": [0.5, 0, 8, 0.25]},
]
odd = st.sampled_from(
    [None, True, False, "1", [], {}, [1], float("nan"), float("inf"), -1, -1e-300, 0, 1, 2, 1.0, 7.0, 10**400, 2**70]
)


def checked(entries: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    return check_annotations(Path("truth.json"), entries, IMAGES, CATEGORIES)


@st.composite
def changed(draw: st.DrawFn) -> list[dict[str, Any]]:
    entries = copy.deepcopy(PLAIN)
    for _ in range(draw(st.integers(0, 2))):
        entry = draw(st.sampled_from(entries))
        field = draw(st.sampled_from(["id", "image_id", "category_id", "bbox", "area", "iscrowd", "keypoints", "more"]))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            entry.pop(field, None)
        elif kind == 1 and isinstance(entry.get("bbox"), list) and entry["bbox"]:
            entry["bbox"][draw(st.integers(0, len(entry["bbox"]) - 1))] = draw(odd)
        elif kind == 2:
            entry[field] = copy.deepcopy(draw(st.sampled_from([other.get(field) for other in PLAIN])))
        else:
            entry[field] = draw(odd)
    return entries


@settings(max_examples=500, deadline=None)
@given(entries=changed())
def test_entries_that_pass_as_columns_pass_one_by_one(entries: list[dict[str, Any]]) -> None:
    if annotations._all_plain(entries, IMAGES, CATEGORIES):
        annotations._check_each(Path("truth.json"), entries, IMAGES, CATEGORIES)


def test_plain_boxes_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotations, "_check_each", lambda *a: pytest.fail("looked at one by one"))
    found = checked(PLAIN)
    assert [(a["id"], a["area"], a["iscrowd"]) for a in found] == [(11, 9.0, 0), (4, 64, 1), (5, 2.0, 0)]
    assert PLAIN[2].keys() == {"id", "image_id", "category_id", "bbox"}, "the file's own entries stay as they were"


@pytest.mark.parametrize(
    ("index", "field", "value", "message"),
    [
        (1, "id", 11, r"annotations\[1\]\.id: 11 is already the id of annotations\[0\]"),
        (1, "image_id", 8, r"annotations\[1\]\.image_id: 8 is not in the list of images"),
        (2, "category_id", 1, r"annotations\[2\]\.category_id: 1 is not in the list of categories"),
        (0, "bbox", [1, 2, 3, -1e-9], r"annotations\[0\]\.bbox: negative width or height"),
        (0, "bbox", [1, 2, 3], r"annotations\[0\]\.bbox: must be .* has 3 numbers"),
        (2, "bbox", [1, float("nan"), 3, 4], r"annotations\[2\]\.bbox\[1\]: must be a finite number, not nan"),
        (2, "bbox", [1, True, 3, 4], r"annotations\[2\]\.bbox\[1\]: must be a finite number, not True"),
        (1, "area", -1, r"annotations\[1\]\.area: must be a finite number of at least 0"),
        (1, "area", None, r"annotations\[1\]\.area: must be a finite number"),
        (1, "iscrowd", 2, r"annotations\[1\]\.iscrowd: must be 0 or 1"),
        (1, "id", True, r"annotations\[1\]\.id: must be a whole number"),
    ],
)
def test_a_fault_among_plain_boxes_is_named(index: int, field: str, value: Any, message: str) -> None:
    entries = copy.deepcopy(PLAIN)
    entries[index][field] = value
    with pytest.raises(InputError, match=message):
        checked(entries)
