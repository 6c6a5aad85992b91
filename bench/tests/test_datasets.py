"""Ground truth is read right, or refused with file, index and field."""

import copy
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.datasets import read_coco, read_plain_images
from bench.errors import InputError
from bench.paths import data_dir
from bench.yolo import read_labels, read_yolo

DELETE = object()
TRUTH = {
    "images": [
        {"id": 7, "file_name": "b.png", "width": 40, "height": 24},
        {"id": 3, "file_name": "sub/a.png", "width": 40, "height": 24},
    ],
    "categories": [{"id": 5, "name": "dog", "keypoints": ["nose", "tail"]}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": 11, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3.5, 4], "area": 9.0, "iscrowd": 0},
        {"id": 4, "image_id": 3, "category_id": 5, "bbox": [0, 0, 8, 8], "keypoints": [1, 1, 2, 0, 0, 0]},
    ],
}


def put_image(path, image_hw=(24, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((*image_hw, 3), np.uint8))


@pytest.fixture
def coco(tmp_path):
    """Write TRUTH with changes ``{(list, index, field): value}`` and return (annotations, images)."""
    for entry in TRUTH["images"]:
        put_image(tmp_path / "images" / entry["file_name"])

    def write(changes=None):
        content = copy.deepcopy(TRUTH)
        for (*place, last), value in (changes or {}).items():
            target = content
            for step in place:
                target = target[step]
            if value is DELETE:
                del target[last]
            else:
                target[last] = value
        (tmp_path / "truth.json").write_text(json.dumps(content))
        return tmp_path / "truth.json", tmp_path / "images"

    return write


def test_samples_and_categories_are_sorted_by_id_and_gaps_are_filled(coco):
    found = read_coco(*coco(), name="pets", split="val")
    assert [(s.image_id, s.path.name, s.width, s.height) for s in found.samples] == [
        (3, "a.png", 40, 24),
        (7, "b.png", 40, 24),
    ]
    assert [c["name"] for c in found.categories] == ["cat", "dog"]
    assert [(a["area"], a["iscrowd"]) for a in found.annotations] == [(9.0, 0), (64, 0)]
    assert found.annotations[1]["num_keypoints"] == 1
    assert (found.name, found.split, found.named_categories) == ("pets", "val", True)


def test_the_hash_follows_names_pixels_and_annotations_and_nothing_else(coco):
    def sha256(changes=None):
        return read_coco(*coco(changes), name="x", split="val").sha256

    first = sha256()
    assert first == sha256()
    assert first != sha256({("annotations", 0, "area"): 8.0})
    annotations, images = coco()
    put_image(images / "b.png", (24, 41))
    assert read_coco(annotations, images, name="x", split="val").sha256 != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({("images",): DELETE}, "has no field 'images'"),
        ({("annotations",): {}}, "annotations must be a list, not an object"),
        ({("images", 1): 5}, r"images\[1\] must be an object, not a number"),
        ({("images", 1, "id"): 7}, r"images\[1\]\.id: 7 is already the id of images\[0\]"),
        ({("images", 0, "id"): "7"}, r"images\[0\]\.id: must be a whole number, not text '7'"),
        ({("images", 0, "id"): True}, r"images\[0\]\.id: must be a whole number"),
        ({("images", 0, "width"): DELETE}, r"images\[0\]: has no field 'width'"),
        ({("images", 0, "height"): 0}, r"images\[0\]\.height: must be at least 1"),
        (
            {("images", 0, "file_name"): "c.png"},
            r"images\[0\]\.file_name: 'c.png' is listed .*\(1 of 2 images are missing\)",
        ),
        ({("images", 0, "file_name"): "../truth.json"}, r"images\[0\]\.file_name: .* leaves the images folder"),
        ({("images", 0, "file_name"): "sub/../../truth.json"}, "leaves the images folder"),
        ({("images", 0, "file_name"): "..\\truth.json"}, "leaves the images folder"),
        ({("images", 0, "file_name"): "/etc/hostname"}, "leaves the images folder"),
        ({("images", 0, "file_name"): 5}, r"images\[0\]\.file_name: must be a file name, not a number"),
        ({("categories", 1, "id"): 5}, r"categories\[1\]\.id: 5 is already"),
        ({("categories", 1, "name"): "dog"}, r"categories\[1\]\.name: 'dog' is already"),
        ({("categories", 1, "name"): None}, r"categories\[1\]\.name: must be text, not null"),
        ({("annotations", 1, "id"): 11}, r"annotations\[1\]\.id: 11 is already the id of annotations\[0\]"),
        ({("annotations", 0, "id"): DELETE}, r"annotations\[0\]: has no field 'id'"),
        ({("annotations", 0, "image_id"): 8}, r"annotations\[0\]\.image_id: 8 is not in the list of images"),
        ({("annotations", 0, "category_id"): 1}, r"annotations\[0\]\.category_id: 1 is not in the list of categories"),
        ({("annotations", 0, "bbox"): [1, 2, 3]}, r"annotations\[0\]\.bbox: must be .* has 3 numbers"),
        ({("annotations", 0, "bbox"): "1 2 3 4"}, r"annotations\[0\]\.bbox: must be a list of numbers, not text"),
        (
            {("annotations", 0, "bbox", 2): float("nan")},
            r"annotations\[0\]\.bbox\[2\]: must be a finite number, not nan",
        ),
        (
            {("annotations", 0, "bbox", 0): float("-inf")},
            r"annotations\[0\]\.bbox\[0\]: must be a finite number, not -inf",
        ),
        ({("annotations", 0, "bbox", 0): None}, r"annotations\[0\]\.bbox\[0\]: must be a finite number, not None"),
        ({("annotations", 0, "bbox", 2): -1}, r"annotations\[0\]\.bbox: negative width"),
        ({("annotations", 0, "area"): float("nan")}, r"annotations\[0\]\.area: must be a finite number"),
        ({("annotations", 0, "iscrowd"): 2}, r"annotations\[0\]\.iscrowd: must be 0 or 1"),
        ({("annotations", 1, "keypoints"): [1, 1, 2]}, r"annotations\[1\]\.keypoints: has 3 numbers, expected 3 x 2"),
        ({("annotations", 1, "keypoints", 2): 3}, r"annotations\[1\]\.keypoints: visibility must be 0, 1 or 2"),
    ],
)
def test_a_fault_is_named_by_file_list_index_and_field(coco, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        read_coco(*coco(changes), name="x", split="val")
    assert "truth.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"[1, 2]", "JSON object"),
        (b"\x89PNG\r\n", "JSON object"),
        (b"null", "JSON object"),
        (b'{"images": [\xff]}', "not UTF-8 text at byte 12"),
        (b'{"images": ' + b"[" * 100_000, "nested too deeply|truncated"),
        (b'{"images": [{"id": 1}, {"id"', "line 1, column 29.*truncated"),
        (b'{"images": nope, "x": [1, 2, 3]}', "not valid JSON"),
    ],
)
def test_what_is_no_coco_json_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "truth.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"(?s)truth\.json: .*({message})"):
        read_coco(path, tmp_path, name="x", split="val")


def test_garbage_is_refused_before_it_is_read_whole(tmp_path):
    path = tmp_path / "garbage.json"
    with path.open("wb") as stream:
        stream.truncate(1 << 36)  # sparse: reading it whole would fail on any machine
    with pytest.raises(InputError, match="JSON object"):
        read_coco(path, None, name="x", split="val")


def test_zero_width_is_logged_and_kept(coco, caplog):
    with caplog.at_level(logging.WARNING, "bench"):
        found = read_coco(*coco({("annotations", 0, "bbox", 2): 0}), name="x", split="val")
    assert len(found.annotations) == 2
    assert "1 boxes have no width or no height, the first is annotations[0]" in caplog.text


def test_an_annotation_id_of_zero_is_replaced_because_pycocotools_reads_it_as_unmatched(coco):
    found = read_coco(*coco({("annotations", 1, "id"): 0}), name="x", split="val")
    assert [a["id"] for a in found.annotations] == [11, 12]


def test_without_an_image_folder_only_the_truth_is_read(coco):
    annotations, _ = coco({("images", 0, "file_name"): "absent.png"})
    assert len(read_coco(annotations, None, name="x", split="val").samples) == 2


@pytest.fixture
def yolo(tmp_path):
    """Write a YOLO folder from {stem: label text or None} and a data.yaml."""

    def write(labels, data_yaml=None):
        (tmp_path / "labels").mkdir(exist_ok=True)
        for stem, text in labels.items():
            put_image(tmp_path / "images" / f"{stem}.png")
            if text is not None:
                (tmp_path / "labels" / f"{stem}.txt").write_text(text)
        if data_yaml is not None:
            (tmp_path / "data.yaml").write_text(data_yaml)
        return tmp_path

    return write


def test_yolo_labels_become_coco_boxes_in_pixels(yolo):
    root = yolo({"b": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.25 0.2 0.5\n", "a": None}, "names: [cat, dog]\n")
    found = read_yolo(root, name="pets", split="val")
    assert [(s.image_id, s.path.name, s.width, s.height) for s in found.samples] == [
        (1, "a.png", 40, 24),
        (2, "b.png", 40, 24),
    ]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in found.annotations] == [(1, 2, 2), (2, 2, 1)]
    assert np.allclose([a["bbox"] for a in found.annotations], [[15, 6, 10, 12], [0, 0, 8, 12]])
    assert [a["area"] for a in found.annotations] == pytest.approx([120, 96])
    assert found.categories == ({"id": 1, "name": "cat"}, {"id": 2, "name": "dog"})
    assert found.named_categories


def test_numeric_stems_are_the_image_ids(yolo):
    found = read_yolo(yolo({"000139": "", "000007": ""}), name="x", split="val")
    assert [s.image_id for s in found.samples] == [7, 139]


@pytest.mark.parametrize(
    ("data_yaml", "names", "named"),
    [
        (None, ["class 0", "class 1"], False),
        ("nc: 3\n", ["class 0", "class 1", "class 2"], False),
        ("names: {0: cat, 1: dog}\npath: elsewhere\n", ["cat", "dog"], True),
        ("nc: 2\nnames:\n- cat\n- dog\n", ["cat", "dog"], True),
    ],
)
def test_class_names_come_from_data_yaml_or_are_numbered(yolo, data_yaml, names, named):
    found = read_yolo(yolo({"a": "1 .5 .5 .1 .1"}, data_yaml), name="x", split="val")
    assert [c["name"] for c in found.categories] == names
    assert found.named_categories is named


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 .5 .5 .1", "has 4 columns"),
        ("0 .5 .5 .1 .1 .9", "has 6 columns"),
        ("cat .5 .5 .1 .1", "whole class number"),
        ("1.0 .5 .5 .1 .1", "whole class number"),
        ("-1 .5 .5 .1 .1", "class -1 is outside 0"),
        ("2 .5 .5 .1 .1", "class 2 is outside 0 to 1"),
        ("0 .5 nan .1 .1", "must be finite"),
        ("0 .5 .5 -.1 .1", "negative"),
        ("0 120 60 30 20", "fractions of the image"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(yolo, line, message):
    root = yolo({"a": f"0 .5 .5 .1 .1\n{line}\n"}, "names: [cat, dog]\n")
    with pytest.raises(InputError, match=rf"a\.txt:2: .*{message}"):
        read_yolo(root, name="x", split="val")


@pytest.mark.parametrize(
    ("data_yaml", "message"),
    [
        ("names: [cat, cat]", "twice"),
        ("names: {1: cat, 2: dog}", "keys 0 to 1"),
        ("names: 5", "list of texts"),
        ("[1, 2]", "must be a mapping"),
        ("names: [cat\n", "not valid YAML"),
        ("nc: 3\nnames: [cat, dog]", "nc is 3"),
        ("nc: two", "nc must be"),
        ("names: [1, 2]", "quote numbers"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_wrong_data_yaml_is_refused_and_never_executed(yolo, data_yaml, message):
    with pytest.raises(InputError, match=rf"(?s)data\.yaml: .*{message}"):
        read_yolo(yolo({"a": ""}, data_yaml), name="x", split="val")


def test_a_folder_without_images_or_with_two_of_one_stem_is_refused(yolo):
    root = yolo({"a": ""})
    put_image(root / "images" / "a.bmp")
    with pytest.raises(InputError, match=r"a\.bmp and a\.png share one label file"):
        read_yolo(root, name="x", split="val")
    for path in (root / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"no image \(.jpg"):
        read_yolo(root, name="x", split="val")


def test_plain_images_are_read_for_calibration_without_ground_truth(yolo):
    found = read_plain_images(yolo({"b": "", "a": ""}) / "images", name="photos", split="calibration")
    assert [s.path.name for s in found.samples] == ["a.png", "b.png"]
    assert found.annotations == ()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image_hw=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    boxes=st.lists(st.tuples(st.integers(0, 79), *[st.floats(0, 1)] * 4), max_size=5),
)
def test_a_box_survives_the_way_through_a_label_file(tmp_path, image_hw, boxes):
    height, width = image_hw
    expected = []
    lines = []
    for label, x0, y0, w, h in boxes:
        w, h = w * (1 - x0), h * (1 - y0)
        expected.append((label, x0 * width, y0 * height, w * width, h * height))
        lines.append(f"{label} {x0 + w / 2:.8f} {y0 + h / 2:.8f} {w:.8f} {h:.8f}")
    path = Path(tmp_path) / "a.txt"
    path.write_text("\n".join(lines))
    found = [(label, *box) for label, box in read_labels(path, image_hw)]
    assert np.allclose(np.reshape(found, (-1, 5)), np.reshape(expected, (-1, 5)), atol=1e-4)


def test_coco128_read_as_coco_and_as_yolo_holds_the_same_boxes():
    root = data_dir() / "coco128-val"
    if not root.is_dir():
        pytest.skip(f"{root} is not present")
    coco = read_coco(root / "annotations/instances.json", root / "images", name="c", split="val")
    yolo = read_yolo(root, name="y", split="val")
    assert [(s.image_id, s.width, s.height) for s in coco.samples] == [
        (s.image_id, s.width, s.height) for s in yolo.samples
    ]
    order = [c["id"] for c in coco.categories]
    key = [
        [(a["image_id"], order.index(a["category_id"])) for a in coco.annotations],
        [(a["image_id"], a["category_id"] - 1) for a in yolo.annotations],
    ]
    assert key[0] == key[1]
    assert len(key[0]) == 898
    difference = np.subtract([a["bbox"] for a in coco.annotations], [a["bbox"] for a in yolo.annotations])
    assert np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("camera", ["GoPro", None, {"model": "x"}])
def test_a_camera_without_intrinsics_is_somebody_elses_field(tmp_path, camera):
    assert _with_camera(tmp_path, camera).samples[0].camera is None


def test_intrinsics_are_read_in_pixels(tmp_path):
    camera = {"fx": 500, "fy": 501.5, "cx": 160, "cy": 120}
    assert _with_camera(tmp_path, camera).samples[0].camera == (500.0, 501.5, 160.0, 120.0)


@pytest.mark.parametrize("broken", [{"fx": 0}, {"fy": -1}, {"cx": "160"}, {"fx": True}, {"cy": None}])
def test_intrinsics_that_cannot_be_are_refused_with_their_place(tmp_path, broken):
    camera = {"fx": 500, "fy": 501.5, "cx": 160, "cy": 120, **broken}
    with pytest.raises(InputError, match=r"images\[0\]\.camera"):
        _with_camera(tmp_path, camera)


def _with_camera(tmp_path, camera):
    image = {"id": 1, "file_name": "a.png", "width": 320, "height": 240, "camera": camera}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    return read_coco(path, None, name="n", split="val")


def test_truth_without_images_is_an_empty_set_and_no_crash(coco):
    found = read_coco(*coco({("images",): [], ("annotations",): []}), name="x", split="val")
    assert (found.samples, found.annotations, len(found.categories)) == ((), (), 2)


def test_annotations_of_images_that_are_not_listed_are_refused(coco):
    with pytest.raises(InputError, match=r"annotations\[0\]\.image_id: 7 is not in the list of images"):
        read_coco(*coco({("images",): TRUTH["images"][1:]}), name="x", split="val")


def test_windows_separators_in_file_names_are_read_and_said(coco, caplog):
    with caplog.at_level(logging.INFO, "bench"):
        found = read_coco(*coco({("images", 1, "file_name"): "sub\\a.png"}), name="x", split="val")
    assert found.samples[0].path.name == "a.png"
    assert "1 file names with Windows separators are read with /" in caplog.text


@pytest.mark.parametrize(
    "name", ["C:\\photos\\a.png", "C:a.png", "\\\\host\\share\\a.png", "\\a.png", "sub\\..\\..\\a.png"]
)
def test_windows_paths_that_leave_the_folder_are_refused(coco, name):
    with pytest.raises(InputError, match=r"images\[0\]\.file_name: .* leaves the images folder"):
        read_coco(*coco({("images", 0, "file_name"): name}), name="x", split="val")


def test_an_image_listed_twice_counts_twice_and_is_said(coco, caplog):
    with caplog.at_level(logging.WARNING, "bench"):
        found = read_coco(*coco({("images", 0, "file_name"): "sub/a.png"}), name="x", split="val")
    assert [s.path.name for s in found.samples] == ["a.png", "a.png"]
    assert "1 images are listed again under another id" in caplog.text


@pytest.mark.parametrize("name", ["Käse.png", "写真.png", "🐕 dog.png", "e\u0301.png"])
def test_names_beyond_ascii_are_read_in_both_formats(coco, yolo, tmp_path, name):
    put_image(tmp_path / "images" / name)
    found = read_coco(*coco({("images", 0, "file_name"): name}), name="x", split="val")
    assert found.samples[1].path.name == name
    root = yolo({Path(name).stem: "0 .5 .5 .5 .5"}, "names: ['犬']\n")
    found = read_yolo(root, name="x", split="val")
    assert [s.path.name for s in found.samples if found.annotations[0]["image_id"] == s.image_id] == [name]
    assert found.categories[0]["name"] == "犬"


def test_boxes_beyond_the_image_and_duplicates_are_kept_for_evaluation_as_pycocotools_keeps_them(coco):
    beyond, twice = [-5.0, -5.0, 400.0, 400.0], {**TRUTH["annotations"][0], "id": 99}
    found = read_coco(*coco({("annotations", 1, "bbox"): beyond}), name="x", split="val")
    assert found.annotations[1]["bbox"] == beyond
    found = read_coco(*coco({("annotations",): [TRUTH["annotations"][0], twice]}), name="x", split="val")
    assert len(found.annotations) == 2


def test_yolo_boxes_that_reach_over_the_edge_and_duplicates_are_kept_and_zero_area_is_logged(yolo, caplog):
    root = yolo({"a": "0 .05 .5 .5 .5\n0 .05 .5 .5 .5\n0 .5 .5 0 .5\n"})
    with caplog.at_level(logging.WARNING, "bench"):
        found = read_yolo(root, name="x", split="val")
    assert [a["bbox"][0] for a in found.annotations] == pytest.approx([-8, -8, 20])
    assert "a.txt:3: the box has no width or no height" in caplog.text


def test_images_without_labels_are_background_and_counted(yolo, caplog):
    with caplog.at_level(logging.INFO, "bench"):
        found = read_yolo(yolo({"a": None, "b": "", "c": "0 .5 .5 .5 .5"}), name="x", split="val")
    assert (len(found.samples), len(found.annotations)) == (3, 1)
    assert "images: 1 of 3 images have no label file: background" in caplog.text


def test_labels_without_images_are_counted_and_refused_when_there_are_no_others(yolo, caplog):
    root = yolo({"a": "0 .5 .5 .5 .5"})
    for name in ("lost.txt", "classes.txt"):
        (root / "labels" / name).write_text("0 .5 .5 .5 .5\n")
    with caplog.at_level(logging.WARNING, "bench"):
        assert len(read_yolo(root, name="x", split="val").annotations) == 1
    assert "labels: 1 label files have no image in" in caplog.text
    assert "lost.txt" in caplog.text
    (root / "labels" / "a.txt").rename(root / "labels" / "a.png.txt")
    with pytest.raises(InputError, match=r"none of its 2 label files \(the first is a\.png\.txt\) belongs to an image"):
        read_yolo(root, name="x", split="val")


def test_an_image_called_classes_keeps_its_labels(yolo):
    assert len(read_yolo(yolo({"classes": "0 .5 .5 .5 .5"}), name="x", split="val").annotations) == 1


def odd_images(folder):
    """Grey, 16-bit, CMYK and EXIF-rotated files of 40 x 24 pixels as people see them."""
    from PIL import Image

    folder.mkdir()
    rows = np.linspace(0, 255, 24 * 40).reshape(24, 40)
    cv2.imwrite(str(folder / "grey.png"), rows.astype(np.uint8))
    cv2.imwrite(str(folder / "deep.png"), (rows * 257).astype(np.uint16))
    Image.fromarray(np.dstack([rows.astype(np.uint8)] * 4), "CMYK").save(folder / "print.jpg")
    turned = Image.fromarray(np.zeros((40, 24, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    turned.save(folder / "turned.jpg", exif=exif)


def test_grey_deep_print_and_turned_images_have_the_size_that_people_see(tmp_path):
    pytest.importorskip("PIL")
    odd_images(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "turned.txt").write_text("0 .5 .5 .5 .5")
    found = read_yolo(tmp_path, name="x", split="val")
    assert {(s.path.name, s.width, s.height) for s in found.samples} == {
        (name, 40, 24) for name in ("grey.png", "deep.png", "print.jpg", "turned.jpg")
    }
    assert found.annotations[0]["bbox"] == [10, 6, 20, 12]


def test_a_truncated_image_of_a_yolo_set_is_refused_by_name(yolo):
    root = yolo({"a": "", "b": ""})
    data = (root / "images" / "b.png").read_bytes()
    (root / "images" / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"b\.png: truncated after \d+ bytes"):
        read_yolo(root, name="x", split="val")
