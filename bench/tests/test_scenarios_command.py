"""``parity scenarios`` as a person types it: over the fakes, over files, and with everything that can be wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import testing
from bench.fixtures import resolve
from bench.schema import validate_file

FAKE = ["--adapter", "bench.testing:fake_adapter", "--backend", "bench.testing:fake_backend"]
FILES = ["--adapter", "precomputed"]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt", "lightning", "albumentations", "safetensors", "pytest")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return testing.fake_folder(tmp_path_factory.mktemp("data") / "fakes", 32)


def run_bare(*words, cwd):
    """A process in which no framework, runtime or training library can be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
    code += f"sys.argv = ['parity', *{list(map(str, words))!r}]\nfrom bench.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=240, check=False
    )


def results(folder, shift=0.0):
    """A results list with every object of a folder, ``shift`` pixels off."""
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [a["bbox"][0] + shift, *a["bbox"][1:]],
            "score": 0.9,
        }
        for a in resolve(str(folder)).annotations
    ]


@pytest.fixture
def predictions(images, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(results(images)))
    return path


def scored(tmp_path, out="o"):
    assert validate_file(tmp_path / out / "scenarios.json") == "scenario_result/1"
    document = json.loads((tmp_path / out / "scenarios.json").read_text())
    return document, {s["name"]: s for s in document["scenarios"]}


def test_a_model_runs_on_every_scenario_and_writes_result_and_page(parity, images, tmp_path):
    code, out, err = parity("scenarios", *FAKE, "--dataset", images, "--out", "o", "--bootstrap", 100)
    assert code == 0, err
    document, found = scored(tmp_path)
    assert [s["status"] for s in document["scenarios"]] == ["scored"] * 5 + ["unsupported"] + ["scored"] * 2
    assert found["clean"]["stats"]["AP"] == pytest.approx(1, abs=1e-3)
    assert found["rotated"]["stats"]["AP"] == pytest.approx(1, abs=1e-3)  # exact for pixels and boxes alike
    assert found["blur"]["deltas"]["AP"]["ci95"][1] < 0
    assert found["crowded"]["reason"].startswith("No image has 7 objects: the 32 images have 1 to 3 each.")
    assert all(s["latency_ms"]["p50"] > 0 for s in document["scenarios"] if s["status"] == "scored")
    assert document["model"]["observed"] == {"precision": "fp32", "provider": "cpu", "emulated": False}
    assert document["protocol"]["id"] == "as_run"
    assert "Clearly below clean: low_light, blur" in out
    assert (tmp_path / "o" / "index.html").read_text().startswith("<!doctype html>")


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(parity, images, tmp_path):
    numbers = []
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        code, _, err = parity(
            *("scenarios", *FAKE, "--dataset", images, "--only", "cropped,low_light", "--bootstrap", 100),
            *("--seed", seed, "--out", out, "-q"),
        )
        assert code == 0, err
        _, found = scored(tmp_path, out)
        numbers.append([(s["stats"], s["ap_ci95"], s["moved"]) for s in found.values()])
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]


def test_precomputed_detections_give_what_the_model_itself_gives(parity, images, tmp_path):
    """The whole way round: written images, predicted as any folder, scored beside the detections on clean."""
    base = ["--dataset", images, "--only", "cropped,blur,small_objects", "--bootstrap", 100, "--seed", 3, "-q"]
    assert parity("scenarios", *FAKE, *base, "--out", "model")[0] == 0
    predict = ["predict", "bench.testing:fake_adapter", "--backend", "bench.testing:fake_backend", "--wrap"]
    assert parity(*predict, "--dataset", images, "--out", "clean.json")[0] == 0
    given = ["--predictions", "clean.json"]
    for name in ("cropped", "blur"):
        assert parity("scenarios", "--dataset", images, "--write-images", name, name, "--seed", 3)[0] == 0
        assert parity(*predict, "--dataset", tmp_path / name, "--out", f"{name}.json")[0] == 0
        given += ["--predictions", f"{name}={name}.json"]
    code, _, err = parity("scenarios", *FILES, *given, *base, "--out", "files")
    assert code == 0, err
    (_, ours), (_, theirs) = scored(tmp_path, "model"), scored(tmp_path, "files")
    for name in ("clean", "blur", "small_objects", "cropped"):
        assert theirs[name]["stats"] == ours[name]["stats"]
        assert theirs[name]["deltas"] == ours[name]["deltas"]
        assert theirs[name]["warnings"] == []
    assert theirs["blur"]["predictions"]["file"] == "blur.json"


def test_altering_scenarios_of_precomputed_detections_are_unsupported_with_the_way_out(
    parity, images, predictions, tmp_path
):
    code, out, _ = parity("scenarios", *FILES, "--predictions", predictions, "--dataset", images, "--out", "o")
    assert code == 0
    document, found = scored(tmp_path)
    assert [s["name"] for s in document["scenarios"] if s["status"] == "scored"] == ["clean", "small_objects"]
    assert "--write-images NAME DIR" in found["blur"]["reason"]
    assert found["clean"]["no_latency"] == "Precomputed: nothing is run."
    assert "low_light, blur, jpeg, rotated, cropped: unsupported" in " ".join(out.split())


def test_it_runs_with_the_base_dependencies_alone(images, predictions, tmp_path):
    words = ["scenarios", *FILES, "--predictions", predictions, "--dataset", images, "--out", "o"]
    done = run_bare(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "small_objects" in done.stdout
    done = run_bare("scenarios", "--dataset", images, "--write-images", "cropped", "c", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "c" / "images").glob("*.png"))) == 32


def test_the_first_images_are_scored_of_a_file_about_all_of_them(parity, images, predictions, tmp_path):
    words = ["scenarios", *FILES, "--predictions", predictions, "--dataset", images, "--max-images", 4, "--out", "o"]
    assert parity(*words)[0] == 0
    document, found = scored(tmp_path)
    assert document["fixtures"]["images"] == found["clean"]["images"] == 4
    assert found["clean"]["stats"]["AP"] == pytest.approx(1)
    assert found["clean"]["warnings"] == []
    assert "4 images are too few" in found["clean"]["no_interval"]


def test_images_without_an_entry_are_told_of_those_that_are_scored(parity, images, tmp_path):
    samples = resolve(str(images)).samples
    entries = [{"image": s.path.name, "detections": []} for s in samples[:3]]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    words = ["scenarios", *FILES, "--predictions", "p.json", "--dataset", images, "--max-images", 4, "--out", "o"]
    assert parity(*words)[0] == 0
    _, found = scored(tmp_path)
    told = [text for text in found["clean"]["warnings"] if "entry" in text]
    assert told == ["1 of 4 images have no entry: they count as images without detections"]
    (tmp_path / "p.json").write_text(json.dumps([{"image": samples[9].path.name, "detections": []}]))
    code, _, err = parity(*words)
    assert code == 2
    assert "lists none of the 4 images" in err


def test_an_ap_that_is_asked_for_decides_the_exit_code(parity, images, predictions, tmp_path):
    base = ["scenarios", *FILES, "--predictions", predictions, "--dataset", images, "--out", "o"]
    code, out, _ = parity(*base, "--min-ap", "small_objects=0.9,clean=1")
    assert code == 0
    assert "small_objects: AP is at least the 0.9 of --min-ap." in out
    shifted = tmp_path / "s.json"
    shifted.write_text(json.dumps(results(images, shift=3.0)))
    base[4] = shifted
    code, out, _ = parity(*base, "--min-ap", "small_objects=0.9")
    assert code == 1
    assert "small_objects: AP is below the 0.9 of --min-ap." in out
    code, out, _ = parity(*base, "--min-ap", "blur=0.1")
    assert code == 3  # it could not be judged
    assert "could not be scored" in out


def test_nothing_but_clean_is_not_an_answer_when_something_else_was_asked_for(parity, images, predictions):
    base = ["scenarios", *FILES, "--predictions", predictions, "--dataset", images, "--out", "o", "-q"]
    assert parity(*base, "--only", "blur")[0] == 3
    assert parity(*base, "--only", "clean")[0] == 0


def test_a_lane_that_dies_is_an_error_and_says_how(parity, images, tmp_path):
    words = ["scenarios", *FAKE[:3], "bench.testing:crashing_backend", "--dataset", images, "--out", "o"]
    code, out, _ = parity(*words)
    assert code == 1
    _, found = scored(tmp_path)
    assert found["clean"]["status"] == "error"
    assert "SIGKILL" in found["clean"]["reason"]
    assert found["blur"]["status"] == "skipped"
    assert "Clean has no result" in out


def test_a_runtime_that_computes_in_another_precision_is_an_error(parity, images, tmp_path):
    words = ["scenarios", *FAKE[:3], "bench.testing:mislabelled_backend", "--dataset", images, "--out", "o"]
    assert parity(*words)[0] == 1
    _, found = scored(tmp_path)
    assert "Requested fp32, observed bf16" in found["clean"]["reason"]


def test_an_emulated_precision_has_no_latency(parity, images, tmp_path):
    words = ["scenarios", *FAKE, "--precision", "fp16", "--only", "jpeg", "--dataset", images, "--out", "o", "-q"]
    assert parity(*words)[0] == 0
    _, found = scored(tmp_path)
    assert found["jpeg"]["latency_ms"] is None
    assert found["jpeg"]["no_latency"].startswith("Emulated")


def test_what_was_finished_is_kept_when_somebody_interrupts(parity, images, predictions, tmp_path, monkeypatch):
    import bench.scenarios.run as run

    def interrupt(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "alter_set", interrupt)
    words = ["scenarios", *FAKE, "--dataset", images, "--only", "small_objects,blur", "--out", "o"]
    code, out, _ = parity(*words)
    assert code == 130
    _, found = scored(tmp_path)
    assert found["clean"]["status"] == "scored"
    assert found["blur"]["reason"] == "Interrupted."
    assert found["small_objects"]["reason"] == "Interrupted before it began."
    assert "interrupted" in out


def test_own_scenarios_are_run_and_named_in_the_result(parity, images, tmp_path):
    own = {"schema": "scenarios/1", "scenarios": {"night": {"description": "Dark.", "alter": [
        {"op": "low_light", "exposure": 0.9}, {"op": "rotate", "degrees": [180]}]}}}  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps(own))
    words = ["scenarios", *FAKE, "--dataset", images, "--scenarios", "own.json", "--only", "night", "--out", "o"]
    assert parity(*words)[0] == 0
    document, found = scored(tmp_path)
    assert document["definitions"]["file"] == "own.json"
    assert found["night"]["comparison"] == "moved_truth"
    assert found["night"]["definition"]["alter"][0]["exposure"] == 0.9


def test_json_goes_to_standard_output_alone(parity, images, predictions):
    words = ["scenarios", *FILES, "--predictions", predictions, "--dataset", images, "--out", "o", "--json"]
    code, out, err = parity(*words)
    assert code == 0
    assert json.loads(out)["schema"] == "scenario_result/1"
    assert err == ""


def wrapped(images, path, sha):
    path.write_text(
        json.dumps(
            {
                "schema_version": 1,
                "meta": {"bbox_format": "xywh_abs", "fixtures_sha256": sha},
                "predictions": [
                    {"image": s.path.name.replace(".png", ""), "detections": []} for s in resolve(str(images)).samples
                ],
            }
        )
    )
    return path


BAD = [
    ([], "give --adapter"),
    (["--adapter", "precomputd"], "Did you mean 'precomputed'"),
    (["--adapter", "precomputed"], "--predictions FILE.json"),
    (["--adapter", "precomputed", "--predictions", "none.json"], "none.json: cannot be read"),
    ([*FILES, "--predictions", "p.json", "--only", "blured"], "Did you mean 'blur'"),
    ([*FILES, "--predictions", "p.json", "--predictions", "crowded=p.json"], "takes no file of its own"),
    ([*FILES, "--predictions", "p.json", "--predictions", "croped=p.json"], "Did you mean 'cropped'"),
    ([*FILES, "--predictions", "p.json", "--predictions", "clean=p.json"], "clean has two files"),
    ([*FILES, "--predictions", "p.json", "--predictions", "blur=p.json"], "the images as they are, given for blur"),
    ([*FILES, "--predictions", "p.json", "--backend", "torch"], "runs nothing: leave out --backend"),
    ([*FILES, "--predictions", "p.json", "--min-ap", "clean"], "give NAME=X"),
    ([*FILES, "--predictions", "p.json", "--min-ap", "clen=0.4"], "Did you mean 'clean'"),
    ([*FILES, "--predictions", "p.json", "--min-ap", "clean=nan"], "AP is between 0 and 1"),
    ([*FILES, "--predictions", "p.json", "--min-ap", "blur=0.4", "--only", "jpeg"], "blur is not among --only"),
    ([*FILES, "--predictions", "p.json", "--task", "pose"], "names keypoints"),
    ([*FILES, "--predictions", "p.json", "--task", "poses"], "Did you mean 'pose'"),
    ([*FILES, "--predictions", "p.json", "--seed", "-1"], "--seed -1: must be at least 0"),
    ([*FILES, "--predictions", "p.json", "--bootstrap", "5"], "--bootstrap 5: must be at least 100"),
    ([*FILES, "--predictions", "p.json", "--max-images", "0"], "--max-images 0"),
    ([*FILES, "--predictions", "p.json", "--scenarios", "none.json"], "none.json: cannot be read"),
    ([*FILES, "--predictions", "p.json", "--protocol", "coco_evl"], "Did you mean 'coco_eval'"),
    ([*FAKE, "--predictions", "p.json"], "are scored by --adapter precomputed"),
    ([*FAKE, "--task", "pose"], "finds no keypoints"),
    ([*FAKE[:3], "bench.testing:unavailable_backend"], "pip install nowhere"),
    (["--write-images", "crowded", "x"], "selects images and changes none"),
    (["--write-images", "blurr", "x"], "Did you mean 'blur'"),
]


@pytest.mark.parametrize(("words", "told"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_cannot_be_used_ends_with_exit_code_2_and_says_what_to_type(parity, images, predictions, words, told):
    code, _, err = parity("scenarios", "--dataset", images, "--out", "o", *words)
    assert code == 2
    assert told in err.replace("\n", " ")
    assert not Path("o").exists()


def test_without_images_there_is_nothing_to_score(parity, predictions, tmp_path):
    code, _, err = parity("scenarios", *FILES, "--predictions", predictions)
    assert code == 2
    assert "--dataset NAME|DIR" in err
    for part in ("images", "labels"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    code, _, err = parity("scenarios", *FILES, "--predictions", predictions, "--dataset", "empty")
    assert code == 2
    assert "no image" in err


def test_detections_on_other_images_are_refused(parity, images, tmp_path):
    rows = results(images)
    rows[0]["image_id"] = 999_999
    (tmp_path / "p.json").write_text(json.dumps(rows))
    code, _, err = parity("scenarios", *FILES, "--predictions", "p.json", "--dataset", images)
    assert code == 2
    assert "image_id 999999 is not in fixture set" in err


def test_a_file_made_on_the_images_as_they_are_is_not_taken_for_altered_ones(parity, images, predictions, tmp_path):
    wrapped(images, tmp_path / "w.json", resolve(str(images)).sha256)
    base = ["scenarios", *FILES, "--predictions", predictions, "--dataset", images]
    code, _, err = parity(*base, "--predictions", "blur=w.json")
    assert code == 2
    assert "made on the images as they are, not on blur" in err


def test_a_file_made_with_another_seed_is_not_taken_where_boxes_move(parity, images, predictions, tmp_path):
    wrapped(images, tmp_path / "w.json", "0" * 64)
    base = ["scenarios", *FILES, "--predictions", predictions, "--dataset", images, "--out", "o"]
    code, _, err = parity(*base, "--predictions", "cropped=w.json")
    assert code == 2
    assert "on other cropped images than these settings give" in err
    assert parity(*base, "--predictions", "blur=w.json")[0] == 0  # told, as the truth is the same
    _, found = scored(tmp_path)
    assert any("another version of the fixture set" in text for text in found["blur"]["warnings"])


def test_detections_pinned_to_another_protocol_are_refused_beside_each_other(parity, images, tmp_path):
    for name, digest in (("a", "a" * 64), ("b", "b" * 64)):
        meta = {"bbox_format": "xywh_abs", "protocol_id": "mine", "protocol_hash": digest}
        entries = [{"image": s.path.name, "detections": []} for s in resolve(str(images)).samples]
        document = {"schema_version": 1, "meta": meta, "predictions": entries}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    base = ["scenarios", *FILES, "--predictions", "a.json", "--predictions", "blur=b.json", "--dataset", images]
    code, _, err = parity(*base)
    assert code == 2
    assert "protocol" in err


def test_a_part_of_the_images_is_scored_on_its_own_detections_and_latencies(parity, images, tmp_path):
    own = {"schema": "scenarios/1", "scenarios": {"crowded": {"description": "Two.", "select": {"min_objects": 2}}}}
    (tmp_path / "own.json").write_text(json.dumps(own))
    words = ["scenarios", *FAKE, "--dataset", images, "--scenarios", "own.json", "--only", "crowded", "--out", "o"]
    assert parity(*words)[0] == 0
    _, found = scored(tmp_path)
    assert 0 < found["crowded"]["images"] < 32
    assert found["crowded"]["comparison"] == "part_of_images"
    assert 0 < found["crowded"]["detections"] < found["clean"]["detections"]
    assert found["crowded"]["latency_ms"]["p50"] > 0
