"""What is asked for: variants, images, folders; and what a command line tells about its author."""

import json
from dataclasses import replace

import pytest

from bench import testing
from bench.commands.prepare import command_line
from bench.errors import InputError, UsageError
from bench.fixtures import resolve
from bench.precision.options import Conversion
from bench.preparing import images as images_module
from bench.preparing.images import Choice, count_of, open_images, own_split
from bench.preparing.manifest import facts_of
from bench.preparing.modelcard import card
from bench.preparing.plan import resolve_model
from bench.preparing.ranges import equalised, method_of
from bench.tests.preparing_model import typed, write_images
from bench.tests.tiny_onnx import SPEC


def quiet(text, done, total):
    pass


def test_a_variant_is_a_registered_name():
    assert resolve_model("yolov10n", None) == "yolov10n"
    assert resolve_model("yolov10", "n") == "yolov10n"
    with pytest.raises(UsageError, match=r"no such variant\. Known: b, l, m, n, s, x\."):
        resolve_model("yolov10", "z")
    with pytest.raises(UsageError, match="unknown model 'nothing'"):
        resolve_model("nothing", "x")
    with pytest.raises(UsageError, match="It has none"):
        resolve_model("fastestdet", "x")


def test_a_smaller_set_is_taken_whole_unless_a_number_was_asked_for():
    assert count_of(Choice(calibration=None, evaluation="x"), 64, "set") == 64
    assert count_of(Choice(calibration=None, evaluation="x"), 500, "set") == 100
    with pytest.raises(UsageError, match=r"holds 64 images, 65 are asked for\. Type: --calibration-images 64"):
        count_of(Choice(calibration=None, evaluation="x", count=65), 64, "set")
    with pytest.raises(UsageError, match="no image"):
        count_of(Choice(calibration=None, evaluation="x"), 0, "set")


def test_a_folder_of_its_own_is_no_calibration_set(tmp_path):
    with pytest.raises(UsageError, match=r"has no calibration split.*--calibration coco-train2017"):
        own_split(Choice(calibration=None, evaluation=str(tmp_path)))


def test_a_set_of_its_own_manifest_has_a_calibration_split(tmp_path):
    for split in ("val", "calibration"):
        testing.fake_folder(tmp_path / split, 5)
    entry = {"format": "coco", "annotations": "annotations/instances.json", "images": "images"}
    splits = {split: {"root": split, **entry} for split in ("val", "calibration")}
    facts = {"name": "mine", "kind": "registered", "licence": "MIT", "origin": "here", "splits": splits}
    manifest = tmp_path / "mine.json"
    manifest.write_text(json.dumps({"schema": "fixture_manifest/1", **facts}))
    with pytest.raises(InputError, match="mine calibration split: 5 of 5 calibration images are in the evaluation set"):
        open_images(Choice(calibration=None, evaluation=str(manifest)), progress=quiet)


def test_a_list_of_names_belongs_to_coco(tmp_path):
    with pytest.raises(UsageError, match="--calibration-list goes with"):
        open_images(Choice(calibration=str(tmp_path), evaluation="x", listed=tmp_path / "names.txt"), progress=quiet)


def test_copies_of_evaluation_images_are_found_by_their_pixels(tmp_path):
    import cv2

    evaluated = testing.fake_folder(tmp_path / "set", 6)
    photos = write_images(tmp_path / "photos", 4)
    image = cv2.imread(str(sorted((evaluated / "images").iterdir())[0]))
    cv2.imwrite(str(photos / "saved-again.bmp"), image)
    choice = Choice(calibration=str(photos), evaluation=str(evaluated))
    with pytest.raises(InputError, match="1 of 5 calibration images are in the evaluation set"):
        open_images(choice, progress=quiet)
    forced = open_images(replace(choice, allow_evaluation=True), progress=quiet)
    assert forced.evaluation_images == 1
    (photos / "saved-again.bmp").unlink()
    clean = open_images(choice, progress=quiet)
    assert clean.evaluation_images == 0
    assert clean.compared


def test_an_evaluation_set_that_is_not_here_is_said_not_hidden(tmp_path):
    found = open_images(
        Choice(calibration=str(write_images(tmp_path / "photos", 3)), evaluation=str(tmp_path / "absent")),
        progress=quiet,
    )
    assert not found.compared
    assert "no such folder" in found.why_not_compared
    assert str(tmp_path) not in found.compared_with  # it is published
    assert found.evaluation_sets == ()


def test_the_splits_of_a_rendered_set_are_not_rendered_to_be_compared(tmp_path, monkeypatch):
    photos = resolve(str(write_images(tmp_path / "photos", 3)), split="calibration")

    def opened(name, *, split="val", progress=None):
        assert (name, split) == ("shapes", "calibration")
        return photos

    monkeypatch.setattr(images_module, "resolve", opened)
    found = open_images(Choice(calibration=None, evaluation="shapes"), progress=quiet)
    assert found.label == "photos calibration split"  # as the stand-in is called
    assert "different seeds" in found.compared_with


def test_a_command_line_is_told_without_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    words = [
        "prepare",
        "m",
        "--weights",
        "/home/me/w.pt",
        f"--out={tmp_path}/deep/out",
        "--fixtures",
        "sub",
        "--hf-repo",
        "o/n",
    ]
    assert command_line(words) == "parity prepare m --weights w.pt --out=out --fixtures sub --hf-repo o/n"


def test_the_calibrator_is_read_from_the_recipe():
    assert method_of({"calibration": "percentile"}) == "percentile"
    assert method_of({"calibrator": "auto", "calibration": "entropy"}) == "entropy"
    assert method_of({"calibration": "percentile 99.999"}) == "percentile"
    with pytest.raises(Exception, match="does not say which calibrator"):
        method_of({"calibration": "magic"})


def test_moved_factors_are_read_from_the_recipe():
    assert not equalised({})
    assert not equalised({"tuning": {"equalisation": {"kept": False}}})
    assert equalised({"tuning": {"equalisation": {"kept": True}}})


def facts(tmp_path, spec):
    photos = write_images(tmp_path / "photos", 3)
    found = open_images(Choice(calibration=str(photos), evaluation=str(tmp_path / "absent")), progress=quiet)
    return facts_of(
        spec=spec,
        variant=None,
        command="parity prepare x",
        weights={"name": "w", "sha256": "0" * 64, "bytes": 1},
        images=found,
        images_sha256="0" * 64,
        conversion=Conversion(),
        export={},
        recipe={"calibration": "minmax", "long": list(range(1000))},
        cache={"header": "TRT-1-E", "tensors": 1, "scales_from": "model.int8.onnx", "quantised_in_int8": 1},
        objections={"model.onnx": ["GridSample at opset 20"], "model.int8.onnx": []},
        files=[],
        repo=None,
    )


def test_nothing_in_a_card_acts(tmp_path):
    spec = replace(
        SPEC,
        class_names=("<script>alert(1)</script>", "a|b", "@someone", "https://bad.example"),
        licence="MIT\n---\nmalicious: true",
        origin="[click](javascript:x)",
    )
    text = card(facts(tmp_path, spec))
    assert "<script>" not in text
    assert "[click](" not in text
    assert "@someone" not in text
    front = text.split("---\n")[1]
    assert [line.partition(":")[0] for line in front.splitlines()] == [
        "license", "license_name", "pipeline_tag", "library_name", "tags",
    ]  # fmt: skip
    assert json.loads(front.splitlines()[1].partition(": ")[2]) == spec.licence


def test_a_card_says_what_is_missing_and_what_tensorrt_refuses(tmp_path):
    text = card(facts(tmp_path, replace(SPEC, licence="", origin="")))
    assert "license: unknown" in text
    assert "| licence | not stated |" in text
    assert "`model.onnx` holds what TensorRT is known to refuse: GridSample at opset 20" in text
    assert "| long | 1000 entries, in manifest.json |" in text
    assert "not compared with" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hf-repo", "name"], "ORG/NAME"),
        (["--calibration-images", "0"], "give at least 1"),
        (["--cache-version", "8.6"], "the digits of a TensorRT version"),
        (["--weights", "absent.pt"], "no such file"),
        (["--calibration", "coco-val2017"], "evaluated on"),
        (["--calibration", "shapez"], "Did you mean 'shapes'"),
        (["--calibration-images", "129"], "holds 128 images, 129 are asked for"),
        (["--skip-export", "--weights", "x"], "leave --weights out"),
        (["--calibration", "coco-train2017", "--skip-calibration-download"], "not all images are on this host"),
        (["--seed", "-1"], "must be a finite number of at least 0"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_done(monkeypatch, tmp_path, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    assert typed(monkeypatch, "prepare", "yolov10n", *words) == 2
    assert said in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_a_file_is_refused(monkeypatch, tmp_path, capfd):
    (tmp_path / "out").write_text("x")
    assert typed(monkeypatch, "prepare", "yolov10n", "--out", tmp_path / "out") == 2
    assert "is a file" in capfd.readouterr().err
