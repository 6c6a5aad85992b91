"""``parity calibrate`` and ``parity calibration-cache`` as a person types them, on a tiny model."""

from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import pytest

from bench import testing
from bench.choosing import choose_samples
from bench.files import sha256_file
from bench.fixtures import read_image_rgb
from bench.paths import data_dir
from bench.precision.calibration import read_calibration
from bench.precision.collect import collect
from bench.precision.qdq import scales_of
from bench.precision.trtcache import read_cache
from bench.tests.tiny_onnx import save_tiny, tiny_model
from bench.types import Sample

ADAPTER = """
import numpy as np
from bench.errors import Unsupported
from bench.tests.tiny_onnx import SPEC


class Tiny:
    spec = SPEC

    def preprocess(self, image_rgb_u8):
        height, width = image_rgb_u8.shape[:2]
        small = image_rgb_u8[np.arange(8) * height // 8][:, np.arange(8) * width // 8] / np.float32(255)
        return {"images": np.ascontiguousarray(small.transpose(2, 0, 1)[None])}, {}

    def postprocess(self, outputs, meta):
        raise Unsupported("no")

    def build(self, weights, seed=0):
        raise Unsupported("no")

    def export(self, weights, out, *, opset=17):
        raise Unsupported("no")

    def train(self, config, out):
        raise Unsupported("no")


adapter = Tiny()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an adapter, its graph, 12 images to calibrate on and 4 to evaluate on (of which none is shared)."""
    root = tmp_path_factory.mktemp("tiny")
    (root / "tiny.py").write_text(ADAPTER)
    save_tiny(root / "fp32.onnx")
    testing.fake_folder(root / "eval", 4)
    (root / "pool").mkdir()
    for seed in range(100, 112):
        cv2.imwrite(str(root / "pool" / f"{seed}.png"), testing.fake_image(seed)[0])
    return root


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """Lines are not wrapped."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def calibrate(parity, place):
    """Calibrate the tiny model; more words are added at the end."""

    def typed(*words, fixtures=None):
        graph = [] if "--onnx" in words or "--weights" in words else ["--onnx", place / "fp32.onnx"]
        return parity("calibrate", place / "tiny.py", "--fixtures", fixtures or place / "pool", *graph, *words)

    return typed


def test_the_document_names_images_set_and_ranges(calibrate, place, tmp_path):
    code, out, _ = calibrate("--images", 5, "--seed", 3, "--out", "c.json", "--evaluation", place / "eval")
    assert code == 0
    found = read_calibration(tmp_path / "c.json")
    assert (found.images, found.seed, found.method, found.model) == (5, 3, "percentile 99.999", "tiny")
    assert (found.set_name, found.set_split) == ("pool", "calibration")
    assert found.evaluation_images == 0
    assert found.evaluation_sets == ("eval",)
    assert found.onnx_sha256 == sha256_file(place / "fp32.onnx")
    assert [image.sha256 for image in found.files] == [sha256_file(place / "pool" / f.name) for f in found.files]
    assert len({image.name for image in found.files}) == 5
    assert list(found.ranges) == ["images", "a", "b", "c", "d", "e", "f", "cells"]
    for part in (
        "Widest 8 of 8 tensors, percentile 99.999",
        "c.json: ranges of 8 tensors on 5 images of pool",
        "none of them in it",
    ):
        assert part in out


def test_the_ranges_are_those_of_the_named_images(calibrate, place, tmp_path):
    calibrate("--images", 4, "--calibrator", "minmax", "--out", "c.json")
    found = read_calibration(tmp_path / "c.json")
    namespace = {}
    exec(ADAPTER, namespace)

    def feeds():
        return [namespace["adapter"].preprocess(read_image_rgb(place / "pool" / f.name))[0] for f in found.files]

    again = collect(place / "fp32.onnx", feeds)
    assert again.images_sha256 == found.images_sha256
    assert again.ranges("minmax") == dict(found.ranges)


def test_the_same_seed_gives_the_same_file_and_another_one_other_images(calibrate, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert calibrate("--images", 6, "--seed", seed, "--out", f"{name}.json")[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    first, other = (read_calibration(tmp_path / f"{name}.json") for name in "ac")
    assert [f.name for f in first.files] != [f.name for f in other.files]


def test_the_choice_depends_on_the_seed_and_on_no_order_of_files(place):
    samples = [Sample(image_id=i, path=place / f"{i}.png", width=1, height=1) for i in range(50)]
    chosen = choose_samples(samples, 20, 5)
    assert chosen == choose_samples(samples[::-1], 20, 5)
    assert chosen[:10] == choose_samples(samples, 10, 5)
    assert set(chosen) != set(choose_samples(samples, 20, 6))
    assert [s.image_id for s in chosen] != sorted(s.image_id for s in chosen)


@pytest.mark.parametrize(("asked", "there"), [(13, 12), (1000, 12)])
def test_more_images_than_there_are_is_refused_with_their_number(calibrate, tmp_path, asked, there):
    code, _, err = calibrate("--images", asked, "--out", "c.json")
    assert code == 2
    assert f"--images {asked}" in err
    assert f"has {there} image(s)" in err
    assert not (tmp_path / "c.json").exists()


def test_an_empty_set_and_no_image_asked_for_are_refused(calibrate, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = calibrate("--images", 1, "--out", "c.json", fixtures=tmp_path / "empty")
    assert (code, "empty" in err) == (2, True)
    assert calibrate("--images", 0, "--out", "c.json")[0] == 2


@pytest.fixture
def leaky(place, tmp_path):
    """The pool with two evaluation images under other names; one of them is another file with the same pixels."""
    folder = tmp_path / "leaky"
    folder.mkdir()
    first, second = sorted((place / "eval" / "images").iterdir())[:2]
    (folder / "999.png").write_bytes(first.read_bytes())
    cv2.imwrite(str(folder / "888.bmp"), cv2.imread(str(second)))
    for path in sorted((place / "pool").iterdir())[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    # an own image under the name of an evaluation image is no evaluation image
    (folder / first.name).write_bytes(sorted((place / "pool").iterdir())[3].read_bytes())
    return folder


def test_images_of_the_evaluation_set_are_refused_by_their_content(calibrate, place, leaky, tmp_path):
    code, _, err = calibrate("--images", 6, "--out", "c.json", "--evaluation", place / "eval", fixtures=leaky)
    assert code == 2
    assert "2 of the 6 images are also in the evaluation set (eval), by their pixels" in err
    assert "999.png" in err
    assert "888.bmp" in err
    assert "--force" in err
    assert not (tmp_path / "c.json").exists()


def test_forced_evaluation_images_are_counted_in_the_document(calibrate, place, leaky, tmp_path):
    words = ("--images", 6, "--out", "c.json", "--evaluation", place / "eval", "--force")
    code, out, _ = calibrate(*words, fixtures=leaky)
    assert code == 0
    assert "2 of them in it, by --force" in out
    assert read_calibration(tmp_path / "c.json").evaluation_images == 2


def test_the_val_split_of_the_set_itself_is_compared(calibrate, place, tmp_path):
    where = {"root": "eval", "format": "coco", "annotations": "annotations/instances.json", "images": "images"}
    splits = {"val": where, "calibration": where}
    facts = {"schema": "fixture_manifest/1", "name": "same", "kind": "registered", "licence": "-", "origin": "-"}
    manifest = place / "same.json"
    manifest.write_text(json.dumps({**facts, "splits": splits}))
    code, _, err = calibrate("--images", 4, "--out", "c.json", fixtures=manifest)
    assert code == 2
    assert "4 of the 4 images are also in the evaluation set (same)" in err
    del splits["val"]
    manifest.write_text(json.dumps({**facts, "splits": splits}))
    code, _, err = calibrate("--images", 4, "--out", "c.json", fixtures=manifest)
    assert code == 0
    assert "not compared with" in err


def test_the_val_split_of_a_folder_is_compared_with_its_train_images(calibrate, place, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "own" / "labels" / split).mkdir(parents=True)
        (tmp_path / "own" / "images" / split).mkdir(parents=True)
    images = sorted((place / "pool").iterdir())
    for path in images[:3]:
        (tmp_path / "own" / "images" / "train" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "own" / "images" / "val" / "leaked.png").write_bytes(images[0].read_bytes())
    code, _, err = calibrate("--images", 3, "--out", "c.json", fixtures=tmp_path / "own")
    assert code == 2
    assert "1 of the 3 images are also in the evaluation set (own)" in err


def test_a_non_finite_activation_is_named_with_the_image(calibrate, tmp_path):
    model = tiny_model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "body.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((8, 8, 3, 3), np.nan, np.float32), "body.weight"))
    onnx.save(model, tmp_path / "nan.onnx")
    code, _, err = calibrate("--images", 2, "--out", "c.json", "--onnx", tmp_path / "nan.onnx")
    assert code == 2
    assert ".png: calibration failed at image 1: tensor 'c' (node 'body') holds" in err
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--onnx", "a.onnx", "--weights", "b.pth"), "exclude each other"),
        (("--onnx", "none.onnx"), "none.onnx: no such file"),
        (("--calibrator", "entrophy"), "Did you mean 'entropy'"),
        (("--evaluation", "shapess"), "Did you mean 'shapes'"),
    ],
)
def test_options_that_do_not_fit_are_refused(calibrate, words, reason):
    code, _, err = calibrate("--images", 2, "--out", "c.json", *words)
    assert code == 2
    assert reason in err


def test_a_folder_as_output_is_refused_before_any_work(calibrate, tmp_path):
    code, _, err = calibrate("--images", 2, "--out", tmp_path)
    assert (code, "is a folder" in err) == (2, True)


def test_from_images_to_a_cache_to_a_graph_and_back(calibrate, parity, place, tmp_path):
    calibrate("--images", 6, "--out", "c.json")
    code, out, _ = parity(
        "calibration-cache", "write", "--calibration", "c.json", "--out", "c.cache", "--tensorrt", 8510
    )
    assert code == 0
    assert "c.cache: TRT-8510-EntropyCalibration2, 8 tensors" in out
    ranges, cache = read_calibration(tmp_path / "c.json").ranges, read_cache(tmp_path / "c.cache")
    assert {n: np.float32(r.scale) for n, r in ranges.items()} == {n: np.float32(s) for n, s in cache.scales.items()}

    code, out, _ = parity("calibration-cache", "read", "c.cache")
    assert code == 0
    assert "TRT-8510-EntropyCalibration2, 8 tensors" in out

    words = ("--cache", "c.cache", "--onnx", place / "fp32.onnx", "--out", "q.onnx")
    code, out, _ = parity("calibration-cache", "migrate", *words)
    assert code == 0
    assert "100.0%" in out
    assert "migrated scales" in out
    code, out, _ = parity("calibration-cache", "migrate", *words, "--json")
    document = json.loads(out)
    assert (document["coverage"], document["cache_share"], document["unmatched"]) == (1.0, 1.0, [])
    assert document["sha256"] == sha256_file(tmp_path / "q.onnx")

    code, out, _ = parity(
        "calibration-cache", "write", "--onnx", "q.onnx", "--out", "again.cache", "--tensorrt", "8510"
    )
    assert code == 0
    again = read_cache(tmp_path / "again.cache").scales
    assert again == scales_of(onnx.load(tmp_path / "q.onnx"))
    assert again == {name: cache.scales[name] for name in again}
    assert len(again) == document["needed"]


def test_read_prints_json_for_machines(parity, tmp_path):
    (tmp_path / "c.cache").write_bytes(b"TRT-8601-MinMaxCalibration\na[0]: 3c010a14\na[0]: 3c010a14\n")
    document = json.loads(parity("calibration-cache", "read", "c.cache", "--json")[1])
    assert document["version"] == "8601"
    assert document["scales"] == {"a[0]": (1 + 0x010A14 / 2**23) / 128}
    assert document["notes"] == ["line 3: 'a[0]' again, with the scale of line 2"]
    assert "a[0]" in parity("calibration-cache", "read", "c.cache")[1]


def test_names_cannot_write_to_the_terminal(parity, tmp_path):
    (tmp_path / "c.cache").write_bytes(b"TRT-8601-MinMaxCalibration\n\x1b[31m[red]x\\: 3c010a14\n")
    code, out, _ = parity("calibration-cache", "read", "c.cache")
    assert code == 0
    assert "\x1b" not in out
    assert r"'\x1b[31m[red]x\\'" in out


def test_a_malformed_cache_is_exit_2_with_its_lines(parity, tmp_path):
    (tmp_path / "c.cache").write_bytes(b"TRT-8601-E\na: 0\nb: 7fc00000\n")
    code, _, err = parity("calibration-cache", "read", "c.cache")
    assert code == 2
    assert "line 2" in err
    assert "line 3" in err
    assert err.startswith("parity: c.cache")


def test_tensors_that_were_always_zero_are_left_out_and_counted(calibrate, parity, place, tmp_path):
    model = tiny_model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "body.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros((8, 8, 3, 3), np.float32), "body.weight"))
    onnx.save(model, tmp_path / "dead.onnx")
    code, out, _ = calibrate("--images", 2, "--out", "c.json", "--onnx", tmp_path / "dead.onnx")
    assert (code, "4 tensor(s) were zero on every image" in out) == (0, True)
    code, out, _ = parity("calibration-cache", "write", "--calibration", "c.json", "--out", "c.cache")
    assert (code, "left out: 4 tensor(s)" in out) == (0, True)
    assert list(read_cache(tmp_path / "c.cache").scales) == ["images", "a", "b", "cells"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("write", "--out", "x"), "name one source"),
        (("write", "--out", "x", "--calibration", "c.json", "--onnx", "q.onnx"), "name one source"),
        (("write", "--out", "x", "--onnx", "fp32.onnx"), "no QuantizeLinear"),
        (("write", "--out", "x", "--calibration", "fp32.onnx"), "fp32.onnx"),
        (("migrate", "--cache", "few.cache", "--onnx", "fp32.onnx", "--out", "x"), "coverage is too low"),
        (
            ("migrate", "--cache", "few.cache", "--onnx", "fp32.onnx", "--out", "x", "--min-coverage", "2"),
            "a share between",
        ),
        (
            ("migrate", "--cache", "few.cache", "--onnx", "fp32.onnx", "--out", "fp32.onnx"),
            "one of the files that are read",
        ),
        (
            ("migrate", "--cache", "few.cache", "--onnx", "q.onnx", "--out", "x"),
            "q.onnx: the graph is already quantised",
        ),
        (("migrate", "--cache", "few.cache", "--onnx", "none.onnx", "--out", "x"), "none.onnx: no such file"),
        (("migrate", "--cache", "fp32.onnx", "--onnx", "fp32.onnx", "--out", "x"), "malformed line"),
    ],
)
def test_what_cannot_be_converted_is_exit_2_and_writes_nothing(parity, tmp_path, words, reason):
    from bench.precision.qdq import insert_qdq

    save_tiny(tmp_path / "fp32.onnx")
    onnx.save(insert_qdq(tiny_model(), {"images": 1.0, "b": 1.0}), tmp_path / "q.onnx")
    (tmp_path / "few.cache").write_bytes(b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\nelse: 3c010a14\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, err = parity("calibration-cache", *words)
    assert code == 2
    assert reason in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_migration_below_the_default_threshold_can_be_asked_for(parity, tmp_path):
    save_tiny(tmp_path / "fp32.onnx")
    (tmp_path / "few.cache").write_bytes(b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\nelse: 3c010a14\n")
    words = ("migrate", "--cache", "few.cache", "--onnx", "fp32.onnx", "--out", "q.onnx", "--min-coverage", "0")
    code, out, _ = parity("calibration-cache", *words)
    assert code == 0
    assert "only in the cache: else" in out
    assert "without a scale: b" in out
    (tmp_path / "map.toml").write_text('else = "b"')
    code, out, _ = parity("calibration-cache", *words, "--names", "map.toml", "--json")
    assert "b" not in json.loads(out)["without_scale"]


def test_excluded_nodes_stay_in_float_and_are_recorded(parity, tmp_path):
    save_tiny(tmp_path / "fp32.onnx")
    (tmp_path / "c.cache").write_bytes(
        b"TRT-8601-EntropyCalibration2\n"
        + b"".join(b"%s: 3c010a14\n" % n for n in (b"images", b"a", b"b", b"c", b"d", b"e", b"f"))
    )
    words = ("migrate", "--cache", "c.cache", "--onnx", "fp32.onnx", "--out", "q.onnx", "--exclude")
    assert parity("calibration-cache", *words, r"^head\.")[0] == 0
    model = onnx.load(tmp_path / "q.onnx")
    assert "head.weight" in {tensor.name for tensor in model.graph.initializer}
    assert '"float_nodes": ["last_conv"]' in model.metadata_props[0].value
    code, _, err = parity("calibration-cache", *words, "nothing like it")
    assert code == 2
    assert "matches no node" in err


def test_a_real_network_goes_through_with_full_coverage(parity, tmp_path):
    folder = data_dir()
    if not (folder / "fastestdet" / "FastestDet.onnx").is_file() or not (folder / "coco128-train").is_dir():
        pytest.skip(f"FastestDet.onnx or coco128-train is not in {folder} (PARITY_DATA)")
    graph, images = folder / "fastestdet" / "FastestDet.onnx", folder / "coco128-train"
    words = ("calibrate", "fastestdet", "--onnx", graph, "--fixtures", images, "--images", 2, "--out", "c.json", "-q")
    assert parity(*words)[0] == 0
    assert read_calibration(tmp_path / "c.json").evaluation_sets == ("coco128",)
    assert parity("calibration-cache", "write", "--calibration", "c.json", "--out", "c.cache")[0] == 0
    words = ("--cache", "c.cache", "--onnx", graph, "--out", "q.onnx", "--exclude", "^Conv_249$", "--json")
    document = json.loads(parity("calibration-cache", "migrate", *words)[1])
    assert document["coverage"] == document["cache_share"] == 1.0
    assert document["needed"] > 100
