"""Weights decide what a model expects: planning hands the fitted adapter to every lane."""

import json
import subprocess
import sys

import pytest

from bench import testing
from bench.commands.listing import list_command
from bench.errors import InputError
from bench.options import make_request
from bench.planning import make_plans
from bench.registry import load_adapter

ADAPTER = """
from dataclasses import replace
from bench.errors import InputError
from bench.testing import fake_adapter as base

class Mine:
    def __init__(self, spec): self.spec = spec
    def __getattr__(self, name): return getattr(base, name)
    def fitted(self, weights):
        names = tuple(weights.read_text().split())
        if not names: raise InputError(f"weights {weights} name no classes")
        return Mine(replace(self.spec, class_names=names, max_detections=7))

adapter = Mine(base.spec)
"""


@pytest.fixture
def plan(tmp_path):
    """Plan a run of an adapter that reads its classes from its weights."""
    images = testing.fake_folder(tmp_path / "images", 4)
    path = tmp_path / "mine.py"
    path.write_text(ADAPTER)

    def make(weights=None):
        options = {
            "models": str(path),
            "backends": "bench.testing:fake_backend",
            "precisions": "fp32",
            "reference": "bench.testing:fake_backend:fp32",
            "fixtures": str(images),
            "weights": None if weights is None else str(weights),
        }
        (made,) = make_plans(make_request(options, command="test"), logs=tmp_path)
        return made

    return make


def test_the_plan_and_every_lane_have_the_classes_of_the_weights(plan, tmp_path):
    weights = tmp_path / "best.pt"
    weights.write_text("blue red")
    made = plan(weights)
    assert (made.spec.class_names, made.spec.max_detections) == (("blue", "red"), 7)
    assert load_adapter(made.adapter.target).spec == made.spec
    assert made.labels_to_categories == (3, 1)
    assert made.adapter.name == made.spec.name == made.cells[0].cell.model == "fake"


def test_weights_that_ship_with_the_model_leave_it_as_it_is(plan):
    made = plan()
    assert made.spec == testing.fake_adapter.spec
    assert "::" not in made.adapter.target


def test_weights_that_do_not_fit_are_refused_before_anything_runs(plan, tmp_path):
    weights = tmp_path / "none.pt"
    weights.write_text("")
    with pytest.raises(InputError, match="name no classes"):
        plan(weights)


def test_the_list_of_models_states_parameters_size_and_licence_without_a_framework():
    code = (
        "import sys; from bench.commands.listing import list_command; list_command('models', as_json=True)\n"
        "sys.exit(bool({'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    assert {f"yolov10{v}" for v in "nsmblx"} <= set(rows)
    assert all(row["licence"] for row in rows.values())
    assert (rows["yolov10x"]["parameters"], rows["yolov10x"]["input"]) == (29_473_568, "640x640")
    assert (rows["yolov10n"]["classes"], rows["yolov10n"]["input"]) == (8, "320x320")


def test_the_table_of_models_is_in_million_parameters(capsys):
    list_command("models", as_json=False)
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "yolov10s" in text]
    assert "7.25 M" in line
