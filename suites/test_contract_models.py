"""One contract for every registered model: what the harness relies on without knowing who it is."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.registry import adapter_names, load_adapter
from bench.types import Adapter, Prediction


@pytest.fixture(params=adapter_names())
def adapter(request):
    return load_adapter(request.param)


@pytest.fixture
def image_rgb_u8():
    return np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)


def outputs_of(adapter, value):
    return {
        t.name: np.full([d if isinstance(d, int) else 1 for d in t.shape], value, t.dtype) for t in adapter.spec.outputs
    }


def test_a_model_fulfils_the_protocol_and_says_where_it_comes_from(adapter):
    assert isinstance(adapter, Adapter)
    spec = adapter.spec
    assert spec.licence
    assert spec.origin
    assert spec.preprocessing
    assert len(set(spec.class_names)) == len(spec.class_names) > 0
    assert spec.default_weights is None or spec.default_weights.is_file()
    readme = Path(inspect.getfile(type(adapter))).parent / "README.md"
    assert spec.licence.split()[0] in readme.read_text("utf-8")


@pytest.mark.parametrize("name", adapter_names())
def test_importing_a_model_imports_no_framework(name):
    code = f"import sys; from bench.registry import load_adapter; load_adapter({name!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_preprocessing_gives_the_declared_inputs_and_does_not_touch_the_image(adapter, image_rgb_u8):
    before = image_rgb_u8.copy()
    feeds, _ = adapter.preprocess(image_rgb_u8)
    assert {n: (v.shape[1:], str(v.dtype)) for n, v in feeds.items()} == {
        t.name: (tuple(t.shape[1:]), t.dtype) for t in adapter.spec.inputs
    }
    assert all(v.shape[0] == 1 and np.isfinite(v).all() for v in feeds.values())
    np.testing.assert_array_equal(image_rgb_u8, before)


def test_preprocessing_is_the_same_every_time(adapter, image_rgb_u8):
    first, second = (adapter.preprocess(image_rgb_u8)[0] for _ in range(2))
    assert all(first[n].tobytes() == second[n].tobytes() for n in first)


def test_preprocessing_tells_the_colours_apart(adapter, image_rgb_u8):
    turned = adapter.preprocess(np.ascontiguousarray(image_rgb_u8[..., ::-1]))[0]
    assert any((turned[n] != v).any() for n, v in adapter.preprocess(image_rgb_u8)[0].items())


def test_nothing_found_is_an_empty_prediction(adapter, image_rgb_u8):
    _, meta = adapter.preprocess(image_rgb_u8)
    outputs = outputs_of(adapter, 0)
    for name, column in adapter.spec.background.items():
        outputs[name][..., column] = 30  # zeros before a softmax mean that all classes are as likely
    found = adapter.postprocess(outputs, meta)
    assert isinstance(found, Prediction)
    assert found.boxes_xyxy.shape == (0, 4)
    assert (found.boxes_xyxy.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)


def test_outputs_that_are_not_numbers_stay_visible(adapter, image_rgb_u8):
    _, meta = adapter.preprocess(image_rgb_u8)
    found = adapter.postprocess(outputs_of(adapter, np.nan), meta)
    assert len(found.scores) > 0
    assert not np.isfinite(found.scores).any()


def test_the_network_gives_the_declared_outputs_and_batches_agree(adapter, image_rgb_u8):
    torch = pytest.importorskip("torch", reason="the network needs torch")
    feeds, _ = adapter.preprocess(image_rgb_u8)
    network = adapter.build(None, seed=1)
    with torch.inference_mode():
        one = [torch.from_numpy(v) for v in feeds.values()]
        single, pair = network(*one), network(*[t.repeat(2, 1, 1, 1) for t in one])
    assert [tuple(t.shape[1:]) for t in single] == [tuple(t.shape[1:]) for t in adapter.spec.outputs]
    for alone, together in zip(single, pair, strict=True):
        np.testing.assert_allclose(together[1], alone[0], rtol=1e-3, atol=1e-3)
