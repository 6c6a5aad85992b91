from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest

from bench import testing
from bench.errors import ContractError, Unavailable, Unsupported
from bench.registry import load_adapter, load_backend
from bench.types import Adapter, Artifact, Backend, Cell, Runner

SABOTEURS = sorted(name for name, value in vars(testing).items() if isinstance(value, testing.SabotagedBackend))


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    return testing.fake_fixtures(tmp_path_factory.mktemp("fake"), 6)


def opened(backend, precision="fp32"):
    adapter = testing.fake_adapter
    artifact = Artifact(kind="weights", path=adapter.spec.default_weights, sha256="0" * 64, precision=precision,
                        inputs=adapter.spec.inputs, outputs=adapter.spec.outputs,
                        build=lambda: adapter.build(adapter.spec.default_weights))  # fmt: skip
    cell = Cell(model="fake", backend=backend.name, device="cpu", precision=precision, fixtures="fake")
    return backend.open(artifact, cell, threads=1)


def predictions(backend, fixtures, precision="fp32"):
    adapter = testing.fake_adapter
    with opened(backend, precision) as runner:
        for sample in fixtures.samples:
            feeds, meta = adapter.preprocess(cv2.imread(str(sample.path))[..., ::-1])
            yield sample.image_id, adapter.postprocess(runner.run(feeds), meta)


@pytest.mark.parametrize("precision", ["fp64", "fp32", "fp16", "int8"])
def test_the_fake_model_finds_every_rectangle_in_every_precision(fixtures, precision):
    for image_id, prediction in predictions(testing.fake_backend, fixtures, precision):
        truth = {a["category_id"] - 1: a["bbox"] for a in fixtures.annotations if a["image_id"] == image_id}
        assert sorted(prediction.labels.tolist()) == sorted(truth)
        assert (np.diff(prediction.scores) <= 0).all()
        for label, box_xyxy in zip(prediction.labels, prediction.boxes_xyxy, strict=True):
            x, y, width, height = truth[int(label)]
            np.testing.assert_allclose(box_xyxy, [x, y, x + width, y + height], rtol=0, atol=0.3)


def test_precisions_differ_a_little_and_fp16_says_that_it_is_emulated(fixtures):
    feeds = testing.fake_adapter.preprocess(testing.fake_image(1)[0])[0]
    boxes = {}
    for precision in testing.fake_backend.precisions:
        with opened(testing.fake_backend, precision) as runner:
            boxes[precision] = runner.run(feeds)["boxes"]
            assert runner.attest().emulated is (precision == "fp16")
            assert runner.attest().emulated is (testing.fake_backend.require("cpu", precision) == "emulated")
    errors = {p: float(np.abs(b - boxes["fp64"]).max()) for p, b in boxes.items()}
    assert 0 < errors["fp32"] < 1e-4 < errors["fp16"] < 0.1


def test_the_same_seed_renders_the_same_image_inside_its_bounds():
    for seed in range(50):
        image, rectangles = testing.fake_image(seed)
        np.testing.assert_array_equal(image, testing.fake_image(seed)[0])
        assert rectangles
        for label, x, y, width, height in rectangles:
            assert (image[y : y + height, x : x + width, label] == 240).all()
            assert (image[..., label] == 240).sum() == width * height


def test_everything_is_a_plug_in_that_a_lane_can_find_by_name():
    assert isinstance(load_adapter("bench.testing:fake_adapter"), Adapter)
    names = set()
    for name in ["fake_backend", *SABOTEURS]:
        backend = load_backend(f"bench.testing:{name}")
        assert isinstance(backend, Backend)
        names.add(backend.name)
    assert len(names) == len(SABOTEURS) + 1
    assert type(pickle.loads(pickle.dumps(testing.fake_backend))) is testing.FakeBackend


def test_saboteurs_of_outputs_do_what_their_names_say(fixtures):
    feeds = testing.fake_adapter.preprocess(testing.fake_image(1)[0])[0]
    with opened(testing.fake_backend) as runner:
        honest = runner.run(feeds)

    def sabotaged(backend):
        with opened(backend) as runner:
            assert isinstance(runner, Runner)
            return runner.run(feeds)

    assert np.isnan(sabotaged(testing.nan_backend)["scores"]).any()
    assert np.isinf(sabotaged(testing.inf_backend)["scores"]).all()
    assert honest["scores"].min() == 0  # this image lacks a colour
    assert sabotaged(testing.extra_boxes_backend)["scores"].min() > 0.5
    assert sabotaged(testing.wrong_shape_backend)["boxes"].shape == (1, 3, 3)
    assert sabotaged(testing.missing_boxes_backend)["scores"].max() == 0
    np.testing.assert_allclose(sabotaged(testing.shifted_backend)["boxes"] - honest["boxes"], 2, rtol=1e-5)


def test_a_nan_reaches_the_prediction_instead_of_being_dropped(fixtures):
    assert any(np.isnan(p.scores).any() for _, p in predictions(testing.nan_backend, fixtures))


def test_saboteurs_of_evidence_do_what_their_names_say():
    with opened(testing.mislabelled_backend, "fp16") as runner:
        assert (runner.attest().precision, runner.attest().emulated) == ("bf16", False)
    with opened(testing.wrong_provider_backend) as runner:
        assert runner.attest().provider == "npu"


def test_a_saboteur_lets_the_first_inference_of_a_lane_pass():
    feeds = testing.fake_adapter.preprocess(testing.fake_image(1)[0])[0]
    with opened(testing.raising_backend) as runner:
        runner.run(feeds)
        with pytest.raises(RuntimeError, match="gave up"):
            runner.run(feeds)
        with pytest.raises(RuntimeError, match="gave up"):
            runner.bind(feeds).step()


def test_refusals_are_typed():
    with pytest.raises(Unavailable, match="Type: pip install nowhere"):
        opened(testing.unavailable_backend)
    with pytest.raises(Unavailable, match="cpu only"):
        testing.fake_backend.require("cuda:0", "fp32")
    with pytest.raises(Unsupported, match="fake:bf16"):
        testing.fake_backend.require("cpu", "bf16")


def test_a_saboteur_that_stops_working_keeps_giving_the_outputs_of_its_last_step():
    feeds, other = (testing.fake_adapter.preprocess(testing.fake_image(seed)[0])[0] for seed in (1, 2))
    lazy = testing.SabotagedBackend(name="fake-lazy", works=lambda runs: runs < 2)
    with opened(lazy) as runner:
        bound = runner.bind(feeds)
        with pytest.raises(ContractError, match="fetch before step"):
            bound.fetch()
        bound.step()
        first = bound.fetch()["boxes"]
        bound.load(other)
        bound.step()
        second = bound.fetch()["boxes"]
        bound.load(feeds)
        bound.step()
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(bound.fetch()["boxes"], second)
        np.testing.assert_array_equal(runner.run(feeds)["boxes"], first)


def test_what_a_saboteur_changes_in_run_it_changes_in_fetch():
    feeds = testing.fake_adapter.preprocess(testing.fake_image(1)[0])[0]
    with opened(testing.shifted_backend) as runner:
        bound = runner.bind(feeds)
        bound.step()
        np.testing.assert_array_equal(bound.fetch()["boxes"], runner.run(feeds)["boxes"])
