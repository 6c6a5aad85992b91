from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace

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
    lazy = testing.sabotage(testing.fake_backend, name="fake-lazy", works=lambda runs: runs < 2)
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


def test_any_backend_can_be_sabotaged_and_stays_as_it_was():
    honest = load_backend("recorded")
    wrapped = testing.sabotage(honest, refusal="not today")
    assert isinstance(wrapped, Backend)
    assert (wrapped.name, wrapped.artifact_kind, wrapped.measures_speed) == ("recorded-sabotaged", "recording", False)
    with pytest.raises(Unavailable, match="not today"):
        wrapped.require("cpu", "fp32")
    assert honest.require("cpu", "fp32") == "native"


def test_a_fault_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="chagne"):
        testing.sabotage(testing.fake_backend, chagne=lambda o: o)


def test_a_saboteur_can_open_another_precision_and_another_file():
    feeds = testing.fake_adapter.preprocess(testing.fake_image(1)[0])[0]
    cheat = testing.sabotage(testing.fake_backend, cell=lambda c: replace(c, precision="fp32"))
    with opened(cheat, "int8") as runner:
        assert runner.attest().precision == "fp32"
    seen = []
    other = testing.sabotage(testing.fake_backend, artifact=lambda a: seen.append(a) or a)
    artifact = SimpleNamespace(sha256="0")
    assert other.prepare(artifact, None, None) is artifact
    assert seen == [artifact]
    with opened(testing.sabotage(testing.fake_backend, feed=lambda f: {k: v * 0 for k, v in f.items()})) as runner:
        assert runner.run(feeds)["scores"].max() == 0


def test_a_saboteur_that_remembers_does_nothing_on_an_input_seen_before_and_is_right():
    feeds, other = (testing.fake_adapter.preprocess(testing.fake_image(seed)[0])[0] for seed in (1, 2))
    steps = []
    counting = testing.sabotage(testing.fake_backend, name="fake-counting")
    with opened(counting) as honest:
        expected = [honest.run(f)["boxes"] for f in (feeds, other)]
    with opened(testing.sabotage(testing.fake_backend, remembers=True)) as runner:
        run = runner.inner._run
        runner.inner._run = lambda f: steps.append(1) or run(f)
        bound = runner.bind(feeds)
        for index in (0, 1, 0, 1, 0):
            bound.load((feeds, other)[index])
            bound.step()
            np.testing.assert_array_equal(bound.fetch()["boxes"], expected[index])
    assert len(steps) == 2


def test_a_sabotaged_model_is_wrong_in_one_lane_or_in_all():
    image = testing.fake_image(1)[0]
    marked = testing.sabotage(testing.fake_backend, name="fake-marked")

    def swap(image, honest):
        return honest(image[..., ::-1])

    everywhere = testing.sabotage_adapter(testing.fake_adapter, preprocess=swap)
    beside = testing.sabotage_adapter(testing.fake_adapter, preprocess=swap, beside="fake-marked")
    assert isinstance(beside, Adapter)
    honest, swapped = (a.preprocess(image)[0]["images"] for a in (testing.fake_adapter, everywhere))
    np.testing.assert_array_equal(swapped, honest[:, ::-1])
    np.testing.assert_array_equal(beside.preprocess(image)[0]["images"], honest)
    with opened(marked):
        np.testing.assert_array_equal(beside.preprocess(image)[0]["images"], swapped)
    np.testing.assert_array_equal(beside.preprocess(image)[0]["images"], honest)
