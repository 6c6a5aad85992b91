from __future__ import annotations

import hashlib

import numpy as np
import pytest

from bench.errors import ArtifactError, ContractError, Unavailable
from bench.runner_base import RunnerBase, check_signature, checked_feeds, feed_key, first_line, import_runtime
from bench.types import Bound, Evidence, Runner, TensorSpec

IMAGES = TensorSpec(name="images", shape=("batch", 2), dtype="float32")
SIZES = TensorSpec(name="sizes", shape=("batch",), dtype="int64")
BOXES = TensorSpec(name="boxes", shape=("batch", "found", 4), dtype="float32")
COUNT = TensorSpec(name="count", shape=("batch",), dtype="int64")


class Reusing(RunnerBase):
    """Returns the same buffers from every run, as a runtime may."""

    def __init__(self, boxes=None, count=None):
        super().__init__((IMAGES, SIZES), (BOXES, COUNT), name="reusing")
        self.boxes = np.zeros((2, 3, 4), np.float16) if boxes is None else boxes
        self.count = np.zeros(2, np.int64) if count is None else count
        self.closed = 0
        self.steps = 0

    def _run(self, feeds):
        self.boxes += 1
        return {"count": self.count, "boxes": self.boxes}

    def _bind(self, feeds):
        def step():
            self.steps += 1

        return Bound(step, lambda: {"count": self.count, "boxes": self.boxes}, lambda feeds: None)

    def _attest(self):
        return Evidence(precision="fp32", provider="cpu", emulated=False)

    def _close(self):
        self.closed += 1


@pytest.fixture
def feeds():
    return {"sizes": np.zeros(2, np.int64), "images": np.zeros((2, 2), np.float32)}


def test_outputs_are_copied_widened_to_float32_and_ordered_like_the_specs(feeds):
    runner = Reusing()
    first = runner.run(feeds)
    runner.run(feeds)
    assert list(first) == ["boxes", "count"]
    assert first["boxes"].dtype == np.float32
    assert first["count"].dtype == np.int64
    assert (first["boxes"] == 1).all()


def test_float64_outputs_stay_float64(feeds):
    assert Reusing(boxes=np.zeros((2, 3, 4))).run(feeds)["boxes"].dtype == np.float64


def test_an_output_of_another_shape_is_named(feeds):
    with pytest.raises(ContractError, match=r"output 'boxes' must be \(2, found, 4\), got \(2, 3, 5\)"):
        Reusing(boxes=np.zeros((2, 3, 5))).run(feeds)
    with pytest.raises(ContractError, match=r"output 'count' must be \(2\), got \(1\)"):
        Reusing(count=np.zeros(1, np.int64)).run(feeds)


def test_a_missing_output_is_named(feeds):
    runner = Reusing()
    runner.outputs = (*runner.outputs, TensorSpec(name="masks", shape=(1,), dtype="float32"))
    with pytest.raises(ContractError, match="output 'masks' is missing; the runtime returned boxes, count"):
        runner.run(feeds)


def test_axes_of_one_name_must_agree_between_inputs(feeds):
    with pytest.raises(ContractError, match=r"'sizes' .* axis 'batch' was 2 in another input"):
        Reusing().run(feeds | {"sizes": np.zeros(3, np.int64)})


def test_feeds_are_ordered_like_the_specs_and_made_contiguous(feeds):
    feeds["images"] = np.zeros((2, 4), np.float32)[:, ::2]
    arrays = checked_feeds(feeds, (IMAGES, SIZES), where="here")
    assert list(arrays) == ["images", "sizes"]
    assert arrays["images"].flags.c_contiguous


def test_other_byte_orders_are_another_dtype(feeds):
    with pytest.raises(ContractError, match="'images' must be float32"):
        Reusing().run(feeds | {"images": feeds["images"].astype(">f4")})


def test_a_context_manager_closes_once_and_later_use_is_refused(feeds):
    runner = Reusing()
    assert isinstance(runner, Runner)
    with runner:
        bound = runner.bind(feeds)
        bound.step()
    runner.close()
    assert (runner.closed, runner.steps) == (1, 1)
    uses = {"run": lambda: runner.run(feeds), "bind": lambda: runner.bind(feeds), "step": bound.step,
            "fetch": bound.fetch, "load": lambda: bound.load(feeds), "attest": runner.attest}  # fmt: skip
    for word, use in uses.items():
        with pytest.raises(ContractError, match=f"reusing: {word} after close"):
            use()


def test_fetched_outputs_are_copies_and_need_a_step_on_the_loaded_input(feeds):
    runner = Reusing()
    bound = runner.bind(feeds)
    with pytest.raises(ContractError, match="reusing: fetch before step"):
        bound.fetch()
    bound.step()
    first = bound.fetch()
    runner.boxes += 1
    assert (bound.fetch()["boxes"] - first["boxes"] == 1).all()
    bound.load(feeds)
    with pytest.raises(ContractError, match="fetch before step"):
        bound.fetch()


def test_a_load_of_another_shape_or_dtype_is_refused(feeds):
    bound = Reusing().bind(feeds)
    with pytest.raises(ContractError, match=r"'images' was bound as \(2, 2\), load got \(3, 2\)"):
        bound.load({"sizes": np.zeros(3, np.int64), "images": np.zeros((3, 2), np.float32)})
    with pytest.raises(ContractError, match="'images' must be float32"):
        bound.load(feeds | {"images": feeds["images"].astype(np.float64)})


def test_the_feed_key_depends_on_name_dtype_shape_and_bytes_and_on_nothing_else():
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    key = feed_key({"a": value, "b": value})
    assert len(key) == hashlib.sha256().digest_size * 2
    assert feed_key({"b": value.copy(), "a": np.asfortranarray(value)}) == key
    others = [
        {"a": value},
        {"a": value, "c": value},
        {"a": value, "b": value.astype(np.float64)},
        {"a": value, "b": value.reshape(3, 2)},
        {"a": value, "b": value + 1},
        {"a": value, "b": -0.0 * value},
    ]
    assert len({key, *map(feed_key, others)}) == 7


def test_the_feed_key_is_the_same_on_every_host():
    expected = hashlib.sha256(b"images\0<f4\0(1, 2)\0" + bytes(8)).hexdigest()
    assert feed_key({"images": np.zeros((1, 2), np.float32)}) == expected


def test_a_signature_accepts_symbolic_axes_and_refuses_another_fixed_one_rank_dtype_or_input():
    def check(found, outputs=(BOXES,)):
        check_signature(found, outputs, (IMAGES,), (BOXES,), where="model.onnx")

    check((TensorSpec(name="images", shape=("N", "M"), dtype="float32"),))
    for shape, dtype in ((("batch", 3), "float32"), (("batch",), "float32"), (("batch", 2), "float16")):
        with pytest.raises(
            ArtifactError, match=r"model\.onnx: input images .* does not fit the declared images float32"
        ):
            check((TensorSpec(name="images", shape=shape, dtype=dtype),))
    with pytest.raises(ArtifactError, match="needs inputs that nobody feeds: sizes int64"):
        check((IMAGES, SIZES))
    with pytest.raises(ArtifactError, match="has no output 'boxes'; it has count int64"):
        check((IMAGES,), (COUNT,))


def test_a_package_that_is_installed_but_broken_says_so(tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text("raise ImportError('libmissing.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unavailable, match=r"halfway is installed but cannot be loaded: libmissing\.so\.1"):
        import_runtime("halfway", backend="onnxrt", package="halfway")


def test_the_first_line_of_an_empty_message_is_the_name_of_the_error():
    assert first_line(RuntimeError("\n  one\ntwo")) == "one"
    assert first_line(RuntimeError("")) == "RuntimeError"
