from pathlib import Path

import pytest

from bench.errors import InputError, UsageError
from bench.options import HELP, make_request, read_config, split


def request(**values):
    return make_request(values, command="test")


def test_defaults_are_the_plan():
    made = request()
    assert made.precisions == ("fp32", "fp16", "int8")
    assert made.reference == ("torch", "fp32", "cpu")
    assert made.devices == ("cpu",)
    assert made.batch == 1
    assert made.limits.silence_s == 300.0


def test_lists_split_at_commas_and_drop_blanks():
    assert split(" a, b,,c ") == ("a", "b", "c")
    assert split(["a,b", "c"]) == ("a", "b", "c")


def test_weights_are_given_per_model_or_for_the_only_one():
    assert request(weights=["m=a.pth", "n=b.onnx"]).weights == {"m": Path("a.pth"), "n": Path("b.onnx")}
    assert request(weights="w.pth").weights == {"*": Path("w.pth")}
    assert request(weights="/runs/lr=0.1/w.pth").weights == {"*": Path("/runs/lr=0.1/w.pth")}
    assert request(weights="m=/runs/lr=0.1/w.pth").weights == {"m": Path("/runs/lr=0.1/w.pth")}
    assert request(weights="m=a.pth, n=b.onnx").weights == {"m": Path("a.pth"), "n": Path("b.onnx")}


def test_a_path_of_weights_may_hold_a_comma():
    assert request(weights="/runs/a, b/w.pth").weights == {"*": Path("/runs/a, b/w.pth")}
    assert request(weights="m=/x,y/w.pth,n=v,w.pth").weights == {"m": Path("/x,y/w.pth"), "n": Path("v,w.pth")}
    assert request(weights=["C:\\runs,1\\w.pth"]).weights == {"*": Path("C:\\runs,1\\w.pth")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnxruntime", ("onnxrt", "fp32", "cpu")),
        ("torch:bf16", ("torch", "bf16", "cpu")),
        ("torch:fp32:cuda:0", ("torch", "fp32", "cuda:0")),
    ],
)
def test_the_reference_names_backend_precision_and_device(text, expected):
    assert request(reference=text).reference == expected


def test_margins_are_read_per_precision():
    assert request(margin=["int8=0.02,fp16=0.005"]).margins == {"int8": 0.02, "fp16": 0.005}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precisions": "fp33"}, "unknown precision 'fp33'. Did you mean 'fp32'"),
        ({"max_images": "0"}, "--max-images 0: must be .* at least 1"),
        ({"max_images": "many"}, "--max-images 'many': not a number"),
        ({"batch": "1.5"}, "--batch 1.5: must be a whole number"),
        ({"min_ap": "nan"}, "--min-ap nan"),
        ({"max_latency_ms": "inf"}, "--max-latency-ms inf"),
        ({"margin": "int9=0.1"}, "'int9' is no precision. Did you mean 'int8'"),
        ({"margin": "int8=-1"}, "--margin -1"),
        ({"reference": "torch:fp3"}, r"BACKEND:PRECISION\[:DEVICE\]"),
        ({"reference": "toch:fp32"}, "Did you mean 'torch'"),
        ({"require_backends": "trtt"}, "Did you mean 'trt'"),
        ({"bakends": "torch"}, "unknown option 'bakends'. Did you mean 'backends'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_remedy(values, message):
    with pytest.raises(UsageError, match=message):
        request(**values)


def test_a_config_file_takes_the_same_names_and_aliases(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text('models = ["a", "b"]\ndataset = "coco"\nmax-images = 5\n')
    values = read_config(path)
    assert values == {"models": ["a", "b"], "fixtures": "coco", "max_images": 5}
    assert make_request(values, command="").max_images == 5


def test_an_unknown_key_in_the_config_file_suggests_the_nearest(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text("precission = 'fp16'\n")
    with pytest.raises(UsageError, match=r"p\.toml: unknown option 'precission'\. Did you mean 'precisions'"):
        read_config(path)


def test_a_broken_config_file_is_named(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text("models = [")
    with pytest.raises(InputError, match=r"p\.toml: not TOML"):
        read_config(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


def test_every_option_has_help():
    assert all(text.endswith((".", ")")) for text in HELP.values())


@pytest.mark.parametrize("percent", ["0", "100", "-3", "nan", "wide"])
def test_a_band_is_a_percentage(percent):
    with pytest.raises(UsageError, match="--band"):
        make_request({"band": percent}, command="")


def test_a_band_is_given_in_percent_and_kept_as_a_share():
    assert make_request({"band": "10"}, command="").band == 0.1
    assert make_request({}, command="").band == 0.03
