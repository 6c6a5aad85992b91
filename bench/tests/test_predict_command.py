"""parity predict: what the file holds, what its meta says, and what is refused before anything is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import testing
from bench.commands.predict import refuse_violations
from bench.errors import ContractError, InputError
from bench.files import sha256_file
from bench.predictions.write import boxes_as
from bench.records import read_records, record_names
from bench.testing import CLASSES, fake_adapter

FAKE = ["bench.testing:fake_adapter", "--backend", "bench.testing:fake_backend"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return testing.fake_folder(tmp_path_factory.mktemp("data") / "fakes", 6)


def manifest(folder, records, name="records.json"):
    path = folder / name
    path.write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    return path


def test_the_wrapped_form_is_the_contracts_and_scores_1(parity, images, tmp_path):
    code, out, _ = parity("predict", *FAKE, "--dataset", images, "--max-images", "5", "--wrap")
    assert code == 0
    assert "reports/predictions.json: " in out
    document = json.loads((tmp_path / "reports" / "predictions.json").read_text())
    assert set(document) == {"schema_version", "meta", "predictions"}
    assert (document["schema_version"], document["meta"]["images"], len(document["predictions"])) == (1, 5, 5)
    entry = document["predictions"][0]
    assert entry["image"] == "000001.png"
    for detection in entry["detections"]:
        assert {"class_id", "score", "bbox"} <= set(detection)
        assert set(detection["bbox"]) == {"cx", "cy", "w", "h"}
        assert all(0 <= value <= 1 for value in detection["bbox"].values())
    shutil.copy(tmp_path / "reports" / "predictions.json", tmp_path / "p.json")
    assert parity("validate", tmp_path / "p.json")[0] == 0
    code, out, _ = parity("score", tmp_path / "p.json", "--fixtures", images, "--json", tmp_path / "s.json")
    assert code == 0


def test_the_meta_says_what_ran_and_not_what_was_asked_for(parity, images, tmp_path):
    code, _, _ = parity("predict", *FAKE, "--precision", "fp16", "--dataset", images, "--wrap", "--output", "p.json")
    assert code == 0
    meta = json.loads((tmp_path / "p.json").read_text())["meta"]
    weights = fake_adapter.spec.default_weights
    assert (meta["precision"], meta["observed_precision"], meta["emulated"]) == ("fp16", "fp32", True)
    assert (meta["backend"], meta["provider"]) == ("fake", "cpu")
    assert meta["weights_sha256"] == meta["artifact_sha256"] == sha256_file(weights)
    assert meta["protocol_id"] == "as_run"
    settings_ = meta["export_settings"]
    assert settings_["image_size"] == {"width": 32, "height": 32}
    assert (settings_["score_threshold"], settings_["iou_threshold"], settings_["max_detections"]) == (0.001, None, 300)
    assert fake_adapter.spec.preprocessing == {}, "nothing is stated, so everything below was measured"
    assert {k: v for k, v in settings_["preprocess"].items() if k != "measured"} == {
        "method": "resize",
        "resize_interp": "nearest",
        "input_color": "RGB",
        "normalize": "0_1",
        "input_size": [32, 32],
    }
    assert len(meta["run"]["config_hash"]) == len(meta["inputs_sha256"]) == 64


def test_the_hash_of_the_settings_changes_with_the_images(parity, images, tmp_path):
    hashes = set()
    for count in ("3", "4"):
        parity("predict", *FAKE, "--dataset", images, "--max-images", count, "--wrap", "--output", "p.json")
        meta = json.loads((tmp_path / "p.json").read_text())["meta"]
        hashes.add((meta["run"]["config_hash"], meta["inputs_sha256"]))
    assert len(hashes) == 2


def test_a_dash_writes_the_document_alone_to_standard_output(parity, images, tmp_path):
    code, out, err = parity("predict", *FAKE, "--dataset", images, "--wrap", "--output", "-")
    assert code == 0
    assert len(json.loads(out)["predictions"]) == 6
    assert "standard output: " in err
    assert list(tmp_path.iterdir()) == []


def test_a_protocol_decides_the_format_of_the_boxes(parity, images, tmp_path):
    conditions = {"score_threshold": 0.001, "max_detections": 300, "bbox_format": "xyxy_abs"}
    protocol = {"schema": "protocol/1", "protocol_schema_version": 1, "id": "mine", "task": "detect"}
    protocol |= {"metric_key": "map50_95", "fixed_conditions": conditions}
    path = manifest(tmp_path, protocol, "protocol.json")
    words = ["predict", *FAKE, "--dataset", images, "--wrap", "--output", "p.json", "--protocol", path]
    assert parity(*words)[0] == 0
    document = json.loads((tmp_path / "p.json").read_text())
    assert (document["meta"]["bbox_format"], document["meta"]["protocol_id"]) == ("xyxy_abs", "mine")
    assert len(document["predictions"][0]["detections"][0]["bbox"]) == 4
    assert parity("score", "p.json", "--fixtures", images, "--protocol", path)[0] == 0


def test_a_preprocessing_that_is_not_the_stated_one_is_refused(parity, images, tmp_path):
    adapter = tmp_path / "liar.py"
    adapter.write_text(
        "from dataclasses import replace\nfrom bench.testing import FakeAdapter\n"
        "class Liar(FakeAdapter):\n"
        "    spec = replace(FakeAdapter.spec, preprocessing={'method': 'letterbox', 'input_color': 'RGB'})\n"
        "adapter = Liar()\n"
    )
    words = ["--backend", "bench.testing:fake_backend", "--dataset", images, "--wrap", "--output", "p.json"]
    code, _, err = parity("predict", adapter, *words)
    assert code == 2
    assert "method 'letterbox', measured 'resize'" in err
    assert "input_color" not in err, "what is true is not told"
    assert not (tmp_path / "p.json").exists()


def test_another_precision_than_asked_for_is_exit_1_and_nothing_is_written(parity, images, tmp_path):
    words = ["bench.testing:fake_adapter", "--backend", "bench.testing:mislabelled_backend", "--dataset", images]
    code, _, err = parity("predict", *words, "--wrap", "--output", "p.json")
    assert code == 1
    assert "bf16" in err
    assert not (tmp_path / "p.json").exists()


def test_detections_that_are_not_finite_are_written_as_words_with_exit_1(parity, images, tmp_path):
    words = ["bench.testing:fake_adapter", "--backend", "bench.testing:nan_backend", "--dataset", images]
    code, _, err = parity("predict", *words, "--wrap", "--output", "p.json")
    assert code == 1
    assert "6 images are not finite (first: 000001.png)" in err
    assert '"nan"' in (tmp_path / "p.json").read_text()
    assert parity("score", "p.json", "--fixtures", images)[0] == 2


# manifests of records


def test_records_are_run_in_their_order_and_named_letter_by_letter(parity, images, tmp_path):
    (tmp_path / "bild ü").mkdir()
    shutil.copy(images / "images" / "000002.png", tmp_path / "bild ü" / "größe_日本.png")
    absolute = str(images / "images" / "000001.png")
    names = ["bild ü\\größe_日本.png", absolute, "./bild ü/../other.png"]
    shutil.copy(images / "images" / "000003.png", tmp_path / "other.png")
    path = manifest(tmp_path, [{"image": name, "labels": []} for name in names])
    code, _, _ = parity("predict", *FAKE, "--records", path, "--wrap", "--output", "p.json")
    assert code == 0
    entries = json.loads((tmp_path / "p.json").read_text())["predictions"]
    assert [e["image"] for e in entries] == names
    assert [e["image_id"] for e in entries] == [1, 2, 3]
    whole = parity("predict", *FAKE, "--dataset", images, "--wrap", "--output", "-")[1]
    by_name = {e["image"]: e["detections"] for e in json.loads(whole)["predictions"]}
    assert [e["detections"] for e in entries] == [by_name[f"00000{k}.png"] for k in (2, 1, 3)]


def test_records_without_wrapping_give_a_list_of_entries(parity, images, tmp_path):
    lines = [json.dumps({"image": f"{images}/images/00000{k}.png"}) for k in (1, 2, 3)]
    (tmp_path / "r.jsonl").write_text("\n".join(["", *lines, ""]), "utf-8")
    words = ["--records", tmp_path / "r.jsonl", "--max-images", "2", "--output", "p.json"]
    assert parity("predict", *FAKE, *words)[0] == 0
    entries = json.loads((tmp_path / "p.json").read_text())
    assert [set(e) for e in entries] == [{"image", "image_id", "detections"}] * 2
    assert parity("validate", tmp_path / "p.json")[0] == 0


def test_labels_of_records_become_the_truth_in_pixels(images):
    box = {"cx": 0.5, "cy": 0.25, "w": 0.5, "h": 0.5}
    labels = [{"class_id": 2, "bbox": box}, {"class_id": 0, **box}]
    path = manifest(images, [{"image": "images/000001.png", "labels": labels}])
    found = read_records(path, CLASSES)
    assert [(a["category_id"], a["bbox"]) for a in found.annotations] == [
        (3, [16.0, 0.0, 32.0, 32.0]),
        (1, [16.0, 0.0, 32.0, 32.0]),
    ]
    assert [c["name"] for c in found.categories] == list(CLASSES)
    assert record_names(path) == {1: "images/000001.png"}


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (
            [{"image": "images/000001.png"}, {"image": ".\\images\\000001.png"}],
            r"\[1\].image: .* the image of \[0\]",
        ),
        ([{"image": "images/000001.png", "labels": [{"class_id": 3}]}], r"labels\[0\].class_id: 3 .* has 3 \(0 to 2\)"),
        ([{"image": "images/000001.png", "labels": [{"class_id": True}]}], "class_id: True is no class"),
        ([{"image": "images/000001.png", "labels": [{"class_id": 0, "cx": 9, "cy": 9, "w": 20, "h": 20}]}], "shares"),
        ([{"image": "images/000001.png", "labels": [{"class_id": 0, "cx": 0.5}]}], r"labels\[0\].cy: must be a finite"),
        ([{"image": "images/000001.png", "labels": {"class_id": 0}}], "labels: must be a list"),
        ([{"image": "images/000001.png", "intrinsics": {"fx": 0, "fy": 1, "cx": 1, "cy": 1}}], "above 0"),
        ([{"image": "images/000009.png"}], r"\[0\].image: 'images/000009.png' is not there"),
        ([{"image": "D:\\data\\1.png"}], "names a drive of another system"),
        ([{"image": "images"}], "is not there"),
        ([{"image": ""}], "must be a path"),
        ([{"image": 7}], "must be a path"),
        ([{"imgae": "a.png"}], "Did you mean 'imgae'"),
        (["a.png"], "a record is an object"),
        ([], "holds no record"),
        ({"images": []}, "has no field 'image'"),
    ],
)
def test_a_manifest_that_cannot_be_run_is_refused_with_its_place(images, records, told):
    path = manifest(images, records, "bad.json")
    with pytest.raises(InputError, match=told) as caught:
        read_records(path, CLASSES)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"image": "a.png"}\n{"image": ', "line 2, column 11: not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("", "holds no record"),
        ("image,label\n", "line 1, column 1: not JSON"),
    ],
)
def test_text_that_is_no_manifest_is_refused_with_its_line(tmp_path, text, told):
    (tmp_path / "r.jsonl").write_text(text, "utf-8")
    with pytest.raises(InputError, match=told):
        read_records(tmp_path / "r.jsonl", CLASSES)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "r.json").write_bytes(b"[\xff\xfe]")
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_records(tmp_path / "r.json", CLASSES)
    with pytest.raises(InputError, match="cannot be read"):
        read_records(tmp_path / "nowhere.json", CLASSES)


# what cannot be used


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--records", "r.json", "--dataset", "shapes"], "give one"),
        (["--bbox-format", "xyxy_abs"], "has xywh_abs; add --wrap"),
        (["--wrap", "--bbox-format", "xyxy"], "Did you mean 'xyxy_abs'"),
        (["--precision", "fp32,fp16"], "runs one cell"),
        (["--dataset", "empty"], "no such folder|no fixture set"),
    ],
)
def test_options_that_do_not_fit_are_exit_2(parity, words, told):
    code, _, err = parity("predict", *FAKE, *words)
    assert code == 2
    import re

    assert re.search(told, err)


def test_a_folder_without_images_is_refused(parity, tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "labels").mkdir()
    code, _, err = parity("predict", *FAKE, "--dataset", tmp_path / "set")
    assert code == 2
    assert "no image" in err


def test_a_folder_of_two_layouts_is_read_as_coco_and_says_so(parity, images, tmp_path, caplog):
    shutil.copytree(images, tmp_path / "both")
    (tmp_path / "both" / "labels").mkdir()
    (tmp_path / "both" / "labels" / "000001.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert parity("predict", *FAKE, "--dataset", tmp_path / "both", "--output", "p.json")[0] == 0
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]  # which Python prints on stderr
    assert any("the json is read, the labels are not" in text for text in told)


def test_a_label_beyond_the_classes_of_a_folder_is_refused(parity, images, tmp_path):
    shutil.copytree(images / "images", tmp_path / "yolo" / "images")
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "000001.txt").write_text("90 0.5 0.5 0.1 0.1\n")
    code, _, err = parity("predict", *FAKE, "--dataset", tmp_path / "yolo")
    assert code == 2
    assert "the model has 3" in " ".join(err.split())


# what may stand in a file


@settings(max_examples=60, deadline=None)
@given(
    corners=st.lists(st.tuples(*[st.floats(-20, 400, width=32)] * 4), min_size=1, max_size=6),
    bbox_format=st.sampled_from(["cxcywh_norm", "cxcywh_abs", "xywh_abs", "xyxy_abs"]),
    size_wh=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
)
def test_boxes_of_every_format_lead_back_to_the_pixels(corners, bbox_format, size_wh):
    boxes = np.array(corners, np.float32).astype(np.float64)
    written = boxes_as(boxes, bbox_format, size_wh)
    for box, (x1, y1, x2, y2) in zip(written, boxes.tolist(), strict=True):
        values = [box[k] for k in ("cx", "cy", "w", "h")] if isinstance(box, dict) else box
        scale = (*size_wh, *size_wh) if bbox_format.endswith("norm") else (1, 1, 1, 1)
        a, b, c, d = (v * s for v, s in zip(values, scale, strict=True))
        if bbox_format.startswith("cx"):
            a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
        elif bbox_format == "xywh_abs":
            c, d = a + c, b + d
        assert [a, b, c, d] == pytest.approx([x1, y1, x2, y2], abs=1e-9)


@pytest.mark.parametrize(
    ("detection", "told"),
    [
        ({"class_id": 1.5, "score": 0.5, "bbox": [0, 0, 1, 1]}, "class_id"),
        ({"class_id": -1, "score": 0.5, "bbox": [0, 0, 1, 1]}, "class_id"),
        ({"class_id": 1, "score": "high", "bbox": [0, 0, 1, 1]}, "score"),
        ({"class_id": 1, "score": 0.5, "bbox": [0, 0, 1]}, "bbox"),
        ({"class_id": 1, "score": 0.5}, "bbox"),
        ({"class_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1], "rot6d": [1, 0, 0]}, "rot6d"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused_before_it_is_written(detection, told):
    good = {"class_id": 1, "score": 0.5, "bbox": {"cx": 0.5, "cy": 0.5, "w": 0.1, "h": 0.1}}
    refuse_violations([{"image": "a.png", "image_id": 1, "detections": [good]}], "entries")
    with pytest.raises(ContractError, match=rf"'a.png'.*{told}"):
        refuse_violations([{"image": "a.png", "image_id": 1, "detections": [good, detection]}], "entries")


def test_a_file_that_its_schema_does_not_allow_is_not_written(parity, images, tmp_path):
    (tmp_path / "half.py").write_text(
        "from dataclasses import replace\nfrom bench.testing import FakeAdapter\n"
        "class Half(FakeAdapter):\n    spec = replace(FakeAdapter.spec, max_detections=2.5)\n"
        "adapter = Half()\n"
    )
    words = ["--backend", "bench.testing:fake_backend", "--dataset", images, "--wrap", "--output", "p.json"]
    code, _, err = parity("predict", tmp_path / "half.py", *words)
    assert code == 2
    assert "max_detections" in err
    assert not (tmp_path / "p.json").exists()


def test_a_wrapping_that_the_schema_does_not_allow_is_refused():
    good = {"schema_version": 1, "meta": {"schema": "predictions/1"}, "predictions": []}
    refuse_violations(good, "wrapped")
    with pytest.raises(ContractError, match="schema_version"):
        refuse_violations({**good, "schema_version": 0}, "wrapped")
    with pytest.raises(ContractError, match="bbox_format"):
        refuse_violations({**good, "meta": {"bbox_format": "yolo"}}, "wrapped")


def test_names_of_paths_stay_whatever_the_system(tmp_path):
    assert record_names(manifest(tmp_path, [{"image": "a\\b.png"}])) == {1: "a\\b.png"}
    assert Path(tmp_path / "records.json").is_file()
