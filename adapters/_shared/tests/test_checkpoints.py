"""Weights are read without executing anything and loaded strictly."""

import json
import pickle
import subprocess
import sys

import onnx
import pytest
import torch
from safetensors.torch import save_file

from adapters._shared.checkpoints import load_strict, read_facts, read_shapes, read_state_dict
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


def test_the_averaged_weights_of_a_checkpoint_come_before_those_in_training(tmp_path, network):
    averaged = {k: torch.full_like(v, 2.0) for k, v in network.state_dict().items()}
    raw = {f"network.{k}": torch.zeros_like(v) for k, v in averaged.items()}
    torch.save({"state_dict": raw, "model": averaged, "epoch": 3, "parity": {"epoch": 3}}, tmp_path / "last.pt")
    state = read_state_dict(tmp_path / "last.pt")
    assert list(state) == list(averaged)
    assert all((v == 2.0).all() for v in state.values())
    assert read_shapes(tmp_path / "last.pt") == {k: tuple(v.shape) for k, v in averaged.items()}


def test_a_name_under_model_does_not_hide_the_state_dict(tmp_path, network):
    torch.save({"model": "yolov10n", "state_dict": network.state_dict()}, tmp_path / "w.pt")
    assert list(read_state_dict(tmp_path / "w.pt")) == list(network.state_dict())


FACTS = {"format": "parity_checkpoint/1", "class_names": ["fox", "öwl"], "image_size": [96, 64], "ap": 0.5}


def write(path, facts, network):
    state = network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path, metadata=None if facts is None else {"parity": json.dumps(facts)})
    elif path.suffix == ".onnx":
        model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
        if facts is not None:
            onnx.helper.set_model_props(model, {"parity": json.dumps(facts), "other": "x"})
        onnx.save(model, path)
    else:
        torch.save({"model": state, **({} if facts is None else {"parity": facts})}, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.onnx"])
def test_facts_are_read_from_every_form_of_file(tmp_path, network, name):
    assert read_facts(write(tmp_path / name, FACTS, network)) == FACTS
    assert read_facts(write(tmp_path / name, None, network)) == {}


def test_a_plain_state_dict_and_an_old_file_have_no_facts(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    torch.save(network.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.pt", "old.pt"):
        assert read_facts(tmp_path / name) == {}
        assert list(read_shapes(tmp_path / name)) == list(network.state_dict())


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ([1], "is list, not a dictionary"),
        ({"class_names": "fox"}, "class_names must be a list of names"),
        ({"class_names": []}, "class_names must be a list of names"),
        ({"class_names": ["fox", 3]}, "class_names must be a list of names"),
        ({"class_names": ["fox", "owl", "fox"]}, "names 'fox' twice"),
        ({"image_size": 640}, "image_size must be"),
        ({"image_size": [640, -1]}, "image_size must be"),
        ({"image_size": [640, True]}, "image_size must be"),
        ({"image_size": [640.0, 640]}, "image_size must be"),
    ],
)
def test_facts_of_another_form_are_refused(tmp_path, network, name, facts, message):
    with pytest.raises(InputError, match=message):
        read_facts(write(tmp_path / name, facts, network))


def test_metadata_that_is_no_json_is_refused(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "w.safetensors", metadata={"parity": "{"})
    with pytest.raises(InputError, match="is not JSON"):
        read_facts(tmp_path / "w.safetensors")


@pytest.mark.parametrize("read", [read_facts, read_shapes])
def test_looking_at_a_file_executes_nothing_either(tmp_path, read):
    torch.save({"model": Marker(), "parity": FACTS}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="never executed"):
        read(tmp_path / "w.pt")
    assert not Marker.touched


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.onnx"])
@pytest.mark.parametrize("keep", [0.0, 0.4])
def test_a_truncated_file_has_no_facts_but_an_error(tmp_path, network, name, keep):
    path = write(tmp_path / name, FACTS, network)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)] or b"\xff")
    with pytest.raises(InputError, match=r"w\.(safetensors|pt|onnx)"):
        read_facts(path)


def test_shapes_and_facts_of_safetensors_need_no_torch(tmp_path, network):
    path = write(tmp_path / "w.safetensors", FACTS, network)
    code = (
        "import sys; from pathlib import Path; from adapters._shared.checkpoints import read_facts, read_shapes\n"
        "path = Path(sys.argv[1])\n"
        "print(read_facts(path)['image_size'], read_shapes(path)['0.weight'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[96, 64] (4, 3) False"


def test_a_documented_ending_may_be_absent_as_a_whole_but_not_in_part(network):
    state = {k: v for k, v in network.state_dict().items() if not k.endswith(".bias")}
    assert load_strict(network, state, allow_missing_suffixes=(".bias",)) == (".bias",)
    with pytest.raises(InputError, match="2 missing"):
        load_strict(network, state)
    with pytest.raises(InputError, match=r"1 missing: 1\.bias"):
        load_strict(network, {**state, "0.bias": torch.zeros(4)}, allow_missing_suffixes=(".bias",))
