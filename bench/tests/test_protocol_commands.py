"""Protocols where they bind: before a run, when files are scored, when runs are compared."""

import json
from pathlib import Path

import pytest

from bench import testing
from bench.across.baselines import load_side
from bench.commands.compare import compare_command
from bench.commands.listing import list_command
from bench.commands.predict import predict_command
from bench.commands.score import make_options, score_command
from bench.engine import prediction_meta, protocol_of
from bench.errors import InputError, UsageError
from bench.options import make_request
from bench.planning import make_plans
from bench.predictions import read_predictions
from bench.protocols import Protocol, as_run, evaluate, load_protocol, settings_of_model
from bench.results import SuiteResult
from bench.running import run_and_report
from bench.schema import to_json, validate
from bench.tests.sample_runs import LABELS, Runs, detections, make_suite
from bench.tests.test_schema import suite as tiny_suite

SPEC = testing.fake_adapter.spec


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


@pytest.fixture
def protocol(tmp_path):
    """Writes a protocol of the fake model's own settings, with some changed."""

    def write(name="fakes_eval", **fixed):
        document = {
            "protocol_schema_version": 1,
            "id": name,
            "fixed_conditions": {"imgsz": 32, "score_threshold": 0.001, "max_detections": 300, **fixed},
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    return write


def request(runs, protocol, **more):
    values = {
        "models": "bench.testing:fake_adapter",
        "backends": "bench.testing:fake_backend",
        "precisions": "fp32",
        "reference": "bench.testing:fake_backend:fp32",
        "fixtures": str(runs.images),
        "protocol": None if protocol is None else str(protocol),
        **more,
    }
    return make_request(values, command="test")


def test_a_plan_that_follows_the_protocol_is_made_and_pinned(runs, protocol, tmp_path):
    asked = request(runs, protocol())
    (plan,) = make_plans(asked, logs=tmp_path)
    meta = prediction_meta(plan, plan.cells[0].cell, "1", None, protocol=asked.protocol)
    assert (meta["protocol_id"], meta["protocol_hash"]) == ("fakes_eval", asked.protocol.hash)
    assert "protocol_mismatches" not in meta
    assert protocol_of(asked, [plan])["evaluation"] == {"fake": f"fakes_eval {asked.protocol.hash[:12]}"}


def test_a_model_that_does_not_follow_it_is_refused_before_anything_runs(runs, protocol, tmp_path):
    asked = request(runs, protocol(imgsz=64, score_threshold=0.05))
    with pytest.raises(InputError, match=r"imgsz: wanted \[64, 64\], found \[32, 32\]; score_threshold: wanted 0.05"):
        make_plans(asked, logs=tmp_path)


def test_an_allowed_mismatch_is_written_into_every_file(runs, protocol, tmp_path):
    asked = request(runs, protocol(imgsz=64), allow_protocol_mismatch=True)
    (plan,) = make_plans(asked, logs=tmp_path)
    meta = prediction_meta(plan, plan.cells[0].cell, "1", None, protocol=asked.protocol)
    assert meta["protocol_mismatches"] == ["imgsz: wanted [64, 64], found [32, 32]"]
    assert "but imgsz" in protocol_of(asked, [plan])["evaluation"]["fake"]


def test_a_results_list_cannot_be_pinned(runs, protocol, tmp_path):
    options = {"models": "bench.testing:fake_adapter", "backends": "torch", "precisions": "fp32", "devices": "cpu"}
    with pytest.raises(UsageError, match="add --wrap"):
        predict_command(
            {**options, "protocol": str(protocol())},
            out=tmp_path / "x.json",
            wrap=False,
            records=None,
            bbox_format=None,
            record=None,
            quiet=True,
        )


@pytest.mark.parametrize("value", ["yes", 1])
def test_the_flag_of_a_configuration_file_is_true_or_false(value):
    with pytest.raises(UsageError, match="true or false"):
        make_request({"allow_protocol_mismatch": value}, command="test")


def test_a_suite_holds_its_evaluation(runs, protocol):
    found = evaluate(SPEC, runs.fixtures, load_protocol(str(protocol(imgsz=64))))
    document = to_json(tiny_suite(evaluation={"fake": found}))
    validate(document, "suite_result", where="test")
    assert document["evaluation"]["fake"]["mismatches"][0]["field"] == "imgsz"
    document["evaluation"]["fake"].pop("hash")
    with pytest.raises(InputError, match="hash"):
        validate(document, "suite_result", where="test")
    assert isinstance(tiny_suite(), SuiteResult)


def pinned(name, evaluation):
    suite = make_suite(name)
    suite["evaluation"] = {} if evaluation is None else {"fake": to_json(evaluation)}
    return suite


def compare(runs, first, second, **options):
    for name, evaluation in (("one", first), ("two", second)):
        runs.write(name, pinned(name, evaluation))
    assert load_side(runs.folder / "one").suite["run_id"] == "one"
    values = {"bootstrap": 100, **{k: v for k, v in options.items() if v is not None}}
    out = runs.folder / "compared.json"
    code = compare_command(
        runs.folder / "one", runs.folder / "two", fixtures=str(runs.images), options=values, json_out=str(out),
        markdown=None, junit=None, strict_undecided=False, quiet=True,
    )  # fmt: skip
    return code, json.loads(out.read_text())


def test_runs_without_a_protocol_are_compared_as_before(runs):
    settings = settings_of_model(SPEC, runs.fixtures)
    other = as_run({**settings, "score_threshold": 0.05})
    own = evaluate(SPEC, runs.fixtures, None)
    changed = {"id": other.id, "hash": other.hash, "settings": settings, "mismatches": []}
    for first, second in ((None, None), (own, None), (own, own), (own, changed)):
        assert compare(runs, first, second)[0] in (0, 3)


def test_runs_pinned_to_two_protocols_are_not_compared(runs, protocol):
    one, two = (evaluate(SPEC, runs.fixtures, load_protocol(str(protocol(n)))) for n in ("a_eval", "b_eval"))
    with pytest.raises(InputError, match=r"fake of the candidate .* wanted a_eval .* found b_eval"):
        compare(runs, one, two)
    with pytest.raises(InputError, match="found not stated"):
        compare(runs, one, None)
    assert compare(runs, one, two, allow_protocol_mismatch=True)[0] in (0, 3)
    assert compare(runs, one, one)[0] in (0, 3)


def test_a_protocol_asked_for_holds_both_sides(runs, protocol):
    own = evaluate(SPEC, runs.fixtures, None)
    assert compare(runs, own, own, protocol=str(protocol()))[0] in (0, 3)
    with pytest.raises(InputError, match=r"fake of the base .* imgsz"):
        compare(runs, own, own, protocol=str(protocol(imgsz=64)))
    with pytest.raises(InputError, match="found not stated"):
        compare(runs, None, own, protocol=str(protocol()))


def test_a_baseline_of_another_protocol_is_refused_before_anything_is_measured(runs, protocol, tmp_path):
    stored = evaluate(SPEC, runs.fixtures, load_protocol(str(protocol("a_eval"))))
    base = runs.write("base", pinned("base", stored))
    asked = request(runs, None, baseline=str(base), out=str(tmp_path / "reports"))
    with pytest.raises(InputError, match=r"wanted a_eval .* found as_run"):
        run_and_report(asked)
    assert not list((tmp_path / "reports").rglob("suite.json"))


def score(path, runs, **changes):
    names = ("annotations", "against", "bbox_format", "task", "bootstrap", "seed", "precision", "margin", "json_out")
    flags = {"intersect": False, "cross_check": "none", "verbose": False, "fixtures": str(runs.images)}
    return score_command(path, make_options(**{**dict.fromkeys(names), **flags, **changes}))


def predictions(runs, name, meta):
    from bench.predictions import write_predictions

    path = runs.folder / name
    write_predictions(path, detections(runs.fixtures), runs.fixtures, LABELS, wrap=True, meta=meta)
    assert read_predictions(path, runs.fixtures).meta.items() >= meta.items()
    return path


META = {"image_hw": [32, 32], "score_floor": 0.001, "max_detections": 300, "model": "fake"}


def test_a_file_that_follows_the_protocol_is_scored_and_says_so(runs, protocol, capsys):
    path = predictions(runs, "a.json", META)
    out = runs.folder / "out.json"
    asked = protocol()
    assert score(path, runs, protocol=str(asked), json_out=out) == 0
    assert "Protocol: fakes_eval" in capsys.readouterr().out
    assert json.loads(out.read_text())["protocol"]["hash"] == load_protocol(str(asked)).hash


def test_a_file_that_does_not_follow_it_or_does_not_say_is_refused(runs, protocol):
    with pytest.raises(InputError, match=r"imgsz: wanted \[32, 32\], found \[64, 64\]"):
        score(predictions(runs, "a.json", {**META, "image_hw": [64, 64]}), runs, protocol=str(protocol()))
    with pytest.raises(InputError, match=r"score_threshold: wanted 0.001, found not stated"):
        score(predictions(runs, "b.json", {"image_hw": [32, 32]}), runs, protocol=str(protocol()))
    assert score(predictions(runs, "c.json", {}), runs, protocol=str(protocol()), allow_protocol_mismatch=True) == 0


def test_a_file_whose_detections_belie_what_it_states_is_refused(runs, protocol):
    path = predictions(runs, "a.json", {**META, "max_detections": 1})
    with pytest.raises(InputError, match=r"max_detections: wanted 1, found .* of one image"):
        score(path, runs, protocol=str(protocol(max_detections=1)))


def test_two_files_pinned_to_two_protocols_are_not_compared(runs):
    pins = [{"protocol_id": name, "protocol_hash": name[0] * 64} for name in ("a_eval", "b_eval")]
    one, two = (predictions(runs, f"{pin['protocol_id']}.json", pin) for pin in pins)
    with pytest.raises(InputError, match=r"protocol: wanted b_eval b+, found a_eval a+"):
        score(one, runs, against=two)
    assert score(one, runs, against=two, allow_protocol_mismatch=True, bootstrap=100) == 0


def test_protocols_are_listed_with_their_hashes(capsys):
    assert list_command("protocols", as_json=True) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["protocol"] for r in rows] == ["coco_eval", "shapes_eval"]
    assert rows[0]["hash"] == load_protocol("coco_eval").hash[:12]


def test_a_protocol_is_a_value_of_its_document_alone():
    document = json.loads((Path(__file__).parents[2] / "fixtures" / "protocols" / "coco_eval.json").read_text())
    assert Protocol(document=document).hash == load_protocol("coco_eval").hash
