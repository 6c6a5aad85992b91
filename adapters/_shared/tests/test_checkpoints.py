"""Weights are read without executing anything and loaded strictly."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from adapters._shared.checkpoints import load_strict, read_state_dict
from bench.errors import InputError


class Marker:
    touched = False

    def __reduce__(self):
        return (setattr, (Marker, "touched", True))


@pytest.fixture
def network():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def test_half_precision_safetensors_are_upcast_to_float32(tmp_path, network):
    save_file({k: v.half() for k, v in network.state_dict().items()}, tmp_path / "w.safetensors")
    state = read_state_dict(tmp_path / "w.safetensors")
    assert {v.dtype for v in state.values()} == {torch.float32}
    assert load_strict(network, state) == ()


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_a_plain_or_wrapped_state_dict_loads(tmp_path, network, wrap):
    state = network.state_dict()
    torch.save({wrap: state} if wrap else state, tmp_path / "w.pt")
    assert list(read_state_dict(tmp_path / "w.pt")) == list(state)


def test_a_pickle_with_code_is_refused_with_the_recipe_and_not_executed(tmp_path):
    torch.save({"model": Marker()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="convert it where it was trained"):
        read_state_dict(tmp_path / "w.pt")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps({"model": Marker()}, protocol=2))
    with pytest.raises(InputError):
        read_state_dict(tmp_path / "raw.pth")
    assert not Marker.touched


def test_a_pickled_module_is_refused(tmp_path, network):
    torch.save(network, tmp_path / "w.pt")
    with pytest.raises(InputError, match="never executed"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("keep", [0.0, 0.4, 0.98])
def test_a_truncated_file_is_an_input_error(tmp_path, network, suffix, keep):
    path = tmp_path / f"w{suffix}"
    state = network.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match=r"w\.(safetensors|pt)"):
        read_state_dict(path)


def test_an_absent_file_or_an_unknown_suffix_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_state_dict(tmp_path / "absent.pt")
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="suffix"):
        read_state_dict(tmp_path / "w.onnx")


def test_an_entry_that_is_not_a_tensor_is_named(tmp_path):
    torch.save({"a": torch.zeros(1), "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="epoch"):
        read_state_dict(tmp_path / "w.pt")


def test_missing_unexpected_and_misshapen_keys_are_all_listed(network):
    state = dict(network.state_dict())
    state["extra"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(5, 3)
    del state["1.bias"]
    with pytest.raises(InputError) as caught:
        load_strict(network, state)
    for part in ("1 missing: 1.bias", "1 unexpected: extra", "0.weight (5, 3) instead of (4, 3)"):
        assert part in str(caught.value)


def test_a_long_list_is_cut_after_ten_with_the_count():
    network = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(8)))
    with pytest.raises(InputError, match=r"16 missing.*and 6 more"):
        load_strict(network, {})


def test_a_documented_group_may_be_absent_as_a_whole_but_not_in_part(network):
    state = dict(network.state_dict())
    del state["1.bias"]
    with pytest.raises(InputError, match=r"1 missing: 1\.bias"):
        load_strict(network, state, allow_missing_prefixes=("1.",))
    del state["1.weight"]
    assert load_strict(network, state, allow_missing_prefixes=("1.",)) == ("1.",)
    with pytest.raises(InputError):
        load_strict(network, state)
