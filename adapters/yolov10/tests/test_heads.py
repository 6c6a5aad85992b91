"""The other outputs are those of the same weights."""

import numpy as np
import pytest
import torch

from adapters._shared.synthetic import make_image
from adapters.yolov10 import deployed
from adapters.yolov10.export import deployed_network
from adapters.yolov10.heads import load_with_one2many, with_outputs_of
from adapters.yolov10.tests.spread import save_spread, spread_adapter
from bench.errors import ContractError, InputError

IMAGES = torch.from_numpy(make_image("heads", (2, 3, 64, 96)))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads wait for each other when the machine is shared: 8 ms per convolution instead of .3."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_spread(tmp_path_factory.mktemp("weights") / "both.safetensors")


@pytest.fixture(scope="module")
def adapter():
    return spread_adapter()


def run(adapter, weights, head):
    with torch.inference_mode():
        return [value.numpy() for value in deployed_network(adapter, weights, head)(IMAGES)]


def test_raw_outputs_decoded_in_numpy_are_the_dense_outputs(adapter, weights):
    distances, logits = run(adapter, weights, "raw")
    boxes, scores = run(adapter, weights, "dense")
    assert distances.shape == (2, 4, deployed.anchors_in((64, 96)))
    assert distances.min() >= 0
    dense = deployed.dense_from_raw({"distances": distances, "class_logits": logits}, (64, 96))
    np.testing.assert_allclose(dense["boxes_cxcywh"], boxes, atol=1e-4)
    np.testing.assert_allclose(dense["scores"], scores, atol=1e-6)
    assert dense["boxes_cxcywh"].dtype == np.float32


def test_the_nms_head_reads_the_other_branch(adapter, weights):
    many, one = run(adapter, weights, "nms"), run(adapter, weights, "topk")
    assert many[1].shape == one[1].shape
    assert np.abs(many[1] - one[1]).max() > 0.01
    both = load_with_one2many("n", 80, weights)
    with torch.inference_mode():
        expected = both.head.decode(both.branches(IMAGES)[0])
    np.testing.assert_array_equal(many[0], expected[0].numpy())
    np.testing.assert_array_equal(many[1], expected[1].numpy())
    network = adapter.build(weights)
    assert not hasattr(network.head, "cv2")
    with torch.inference_mode():
        np.testing.assert_array_equal(network(IMAGES)[0].numpy(), one[0])


def test_another_head_leaves_the_network_as_it_was(adapter, weights):
    network = adapter.build(weights)
    with torch.inference_mode():
        before = network(IMAGES)[0].numpy()
        with_outputs_of(network, "raw")(IMAGES)
        np.testing.assert_array_equal(network(IMAGES)[0].numpy(), before)


def test_weights_without_the_one_to_many_head_are_refused_with_what_to_do(adapter, tmp_path):
    path = save_spread(tmp_path / "inference.safetensors", one2many=False)
    with pytest.raises(InputError, match=r"no one-to-many head.*best\.pt of a training run.*--head topk"):
        deployed_network(adapter, path, "nms")
    assert len(run(adapter, path, "topk")) == 2


def test_half_a_one_to_many_head_is_refused(adapter, weights, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    del state["model.23.cv2.1.2.bias"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"1 missing: model\.23\.cv2\.1\.2\.bias"):
        deployed_network(adapter, tmp_path / "w.safetensors", "nms")


def rows(count=2, padded=3):
    detections = np.zeros((1, padded, 6), np.float32)
    for i in range(count):
        detections[0, i] = [0, 0, 8, 8, 0.9 - 0.1 * i, i]
    return {"detections": detections, "num_dets": np.array([count], np.int32)}


def test_rows_are_read_up_to_their_number():
    (found,) = deployed.read_rows(rows(), classes=8)
    assert found.labels.tolist() == [0, 1]
    assert found.labels.dtype == np.int64
    (none,) = deployed.read_rows(rows(0), classes=8)
    assert none.boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o["num_dets"].__setitem__(0, 4), "num_dets is 4, there are 3 rows"),
        (lambda o: o["num_dets"].__setitem__(0, 1), "row 1 after num_dets is not zero"),
        (lambda o: o["detections"].__setitem__((0, 1, 4), 0.95), "row 1 has a better score"),
        (lambda o: o["detections"].__setitem__((0, 1, 5), 8), r"row 1 has class 8\.0, the model has 8"),
        (lambda o: o["detections"].__setitem__((0, 0, 5), np.nan), "row 0 has class nan"),
        (lambda o: o["detections"].__setitem__((0, 0, 5), 0.5), r"row 0 has class 0\.5"),
    ],
)
def test_rows_that_break_their_convention_are_refused(change, message):
    outputs = rows()
    change(outputs)
    with pytest.raises(ContractError, match=message):
        deployed.read_rows(outputs, classes=8)
