"""What holds for every conversion; each has tests of its own beside this file."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench import planning, precision
from bench.errors import ArtifactError, ContractError, InputError, Unsupported
from bench.events import Silent
from bench.matrix import Request
from bench.precision import gate
from bench.precision.graph import float_region
from bench.precision.onnxfile import check_against
from bench.tests.tiny_onnx import SPEC, save_tiny, tiny_feeds, tiny_model

HEAD = (r"^head\.",)


@pytest.fixture
def source(tmp_path):
    return save_tiny(tmp_path / "fp32.onnx")


def make(name, source, tmp_path, *, images=9):
    out = tmp_path / f"{name}.onnx"
    return out, precision.make(name, source, out, feeds=lambda: iter(tiny_feeds(images)), float_nodes=HEAD)


@pytest.mark.parametrize("name", precision.MADE_HERE)
def test_an_artefact_keeps_the_models_ends_and_its_recipe_is_plain_json(source, tmp_path, name):
    out, recipe = make(name, source, tmp_path)
    assert check_against(SPEC, out) == (SPEC.inputs, SPEC.outputs)
    json.dumps(recipe, allow_nan=False)
    assert "loads" in recipe["gates"]["passed"]


@pytest.mark.parametrize("name", precision.MADE_HERE)
def test_the_same_source_gives_the_same_bytes(source, tmp_path, name):
    first = make(name, source, tmp_path)[0].read_bytes()
    assert make(name, source, tmp_path)[0].read_bytes() == first


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_a_half_artefact_is_about_half_as_large(tmp_path, name):
    import onnx

    source = save_tiny(tmp_path / "fp32.onnx")
    out, _ = make(name, source, tmp_path)
    sizes = [sum(len(t.raw_data) for t in onnx.load(str(p)).graph.initializer) for p in (source, out)]
    assert 0.5 <= sizes[1] / sizes[0] < 0.53  # bf16 keeps the head


def test_the_gate_runs_on_the_first_calibration_image(source, tmp_path, monkeypatch):
    seen = []
    accept = gate.accept
    monkeypatch.setattr(gate, "accept", lambda path, feeds: seen.append(feeds) or accept(path, feeds))
    make("fp16", source, tmp_path)
    make("fp16", source, tmp_path, images=0)
    assert (seen[0]["images"] == tiny_feeds(1)[0]["images"]).all()
    assert not seen[1]["images"].any()


@pytest.mark.parametrize(
    ("name", "images"), [("fp32", False), ("tf32", False), *((p, True) for p in precision.MADE_HERE)]
)
def test_whatever_is_made_here_gets_calibration_images(monkeypatch, name, images):
    found = SimpleNamespace(name="shapes", sha256="c")
    monkeypatch.setattr(planning, "resolve", lambda *args, **options: found)
    request, fixtures = Request(precisions=(name,)), SimpleNamespace(sha256="f")
    calibration, _ = planning._calibration(request, SPEC, fixtures, Silent())
    assert (calibration is found) == images


def test_what_the_gate_refuses_is_not_made(source, tmp_path, monkeypatch):
    def refuse(path, feeds):
        raise ArtifactError("no")

    monkeypatch.setattr(gate, "accept", refuse)
    with pytest.raises(ArtifactError, match="no"):
        make("fp16", source, tmp_path)


def test_an_unknown_precision_has_no_conversion(source, tmp_path):
    with pytest.raises(Unsupported, match="no conversion makes a fp64 graph; there is one for fp16, bf16, int8"):
        make("fp64", source, tmp_path)


@pytest.mark.parametrize("name", precision.MADE_HERE)
def test_a_truncated_source_is_the_users_error(source, tmp_path, name):
    source.write_bytes(source.read_bytes()[:200])
    with pytest.raises(InputError, match=r"fp32\.onnx"):
        make(name, source, tmp_path)


@pytest.mark.parametrize("name", precision.MADE_HERE)
def test_a_conversion_prints_nothing(source, tmp_path, capfd, name):
    make(name, source, tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pattern", ["^last_conv$", r"^head\.", "^f$"])
def test_a_pattern_finds_a_node_by_its_name_its_weight_or_its_output(pattern):
    assert float_region(tiny_model().graph, [pattern]) == ("last_conv", "decode")


def test_a_pattern_does_not_match_what_a_node_reads():
    assert float_region(tiny_model().graph, ["^e$"])[0] == "up"


def test_patterns_that_match_nothing_are_an_error():
    with pytest.raises(ContractError, match=r"none of 'detect_hed' matches .* last node is 'decode'"):
        float_region(tiny_model().graph, ["detect_hed"])
    with pytest.raises(ContractError, match="no regular expression"):
        float_region(tiny_model().graph, ["("])
    assert float_region(tiny_model().graph, []) == ()


def test_importing_the_package_loads_no_runtime():
    code = (
        "import sys; from bench.precision import bf16, fp16, gate, graph, int8, lint, onnxfile, overflow, widen; "
        "print([m for m in ('onnx', 'onnxruntime', 'torch', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
