"""Baselines on disk: what may be stored together, what is refused with its reason, what a reader is never shown."""

import json

import pytest

from bench.across.baselines import load_side, read_finite_suite, refuse_host, refuse_versions, store_run
from bench.errors import InputError
from bench.schema import validate_file
from bench.tests.sample_runs import Runs, make_suite


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "baseline"


def rewrite(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_three_runs_are_kept_and_the_last_one_lies_beside_them(runs, out):
    for number in range(3):
        assert store_run(out, runs.write(f"run{number}", make_suite("x", ratio=2.0 + number / 100))) == number + 1
    assert validate_file(out / "baseline.json") == "baseline/1"
    side = load_side(out)
    assert [r["run_id"] for r in side.runs] == ["run0", "run1", "run2"]
    assert side.suite["run_id"] == "run2"
    assert [c["ratio"] for c in side.runs[1]["cells"]] == [1.0, 2.01, 4.02, None]
    assert len(list((out / "predictions").glob("*.json"))) == 3
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []
    for given in (out / "suite.json", out / "baseline.json"):
        assert len(load_side(given).runs) == 3


def test_a_lone_suite_is_one_run(runs):
    folder = runs.write("lone")
    assert len(load_side(folder).runs) == len(load_side(folder / "suite.json").runs) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["host"].update(cpu="Xeon 7"), "cpu Xeon 6, now Xeon 7"),
        (lambda s: s["host"].update(gpu="H200"), "gpu None, now H200"),
        (lambda s: s["host"]["versions"].update(torch="9.9"), "version of torch 2.13.0, now 9.9"),
        (lambda s: s["protocol"].update(threads=8), "threads 1, now 8"),
        (lambda s: s["cells"][1]["artifact"].update(sha256="d" * 64), "artefact of fake-onnxrt-cpu-fp32-fakes-b1"),
        (lambda s: s["cells"].pop(2), "cell fake-onnxrt-cpu-int8-fakes-b1 is not in the new run"),
    ],
)
def test_runs_of_another_host_protocol_artefact_or_plan_are_not_mixed(runs, out, change, words):
    store_run(out, runs.write("first"))
    other = make_suite("other")
    change(other)
    before = (out / "baseline.json").read_bytes()
    with pytest.raises(InputError, match=words):
        store_run(out, runs.write("other", other))
    assert (out / "baseline.json").read_bytes() == before
    assert load_side(out).suite["run_id"] == "first"


def test_a_run_counts_once_and_only_when_it_is_finished(runs, out):
    folder = runs.write("twice")
    store_run(out, folder)
    with pytest.raises(InputError, match="in this baseline already"):
        store_run(out, folder)
    cut = make_suite("cut")
    cut.update(interrupted=True, exit_code=130)
    with pytest.raises(InputError, match="did not finish"):
        store_run(out, runs.write("cut", cut))
    assert len(load_side(out).runs) == 1


def test_another_host_is_refused_before_anything_is_measured(runs, out):
    host = make_suite("x")["host"]
    refuse_host(out, host)
    store_run(out, runs.write("here"))
    refuse_host(out, host)
    with pytest.raises(InputError, match="another host: cpu Xeon 6, now Arm"):
        refuse_host(out, {**host, "cpu": "Arm"})


def test_a_baseline_of_another_suite_is_refused_by_name_and_ignored_beside_a_suite(runs, out):
    store_run(out, runs.write("mine"))
    rewrite(out / "suite.json", lambda s: s.update(run_id="replaced"))
    with pytest.raises(InputError, match="store the baseline again"):
        load_side(out / "baseline.json")
    side = load_side(out / "suite.json")
    assert len(side.runs) == 1
    assert "is not used" in side.note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["speed"]["latency_ms"].update(p50="nan"), r"onnxrt-cpu-fp32.*speed\.latency_ms\.p50 is nan"),
        (lambda c: c["speed"].update(ratio="inf"), r"speed\.ratio is inf"),
        (lambda c: c["speed"].update(ratio=0.0), r"speed\.ratio is 0\.0"),
        (lambda c: c["speed"].update(ratio_ci95=["nan", 2]), r"speed\.ratio_ci95\.0 is nan"),
        (lambda c: c["speed"]["rounds"][0]["samples_ms"].__setitem__(2, "nan"), r"rounds\.0\.samples_ms\.2 is nan"),
        (lambda c: c["accuracy"]["stats"].update(AP="nan"), r"accuracy\.stats\.AP is nan"),
    ],
)
def test_a_number_that_is_none_is_named_with_its_cell_and_field(runs, change, words):
    folder = runs.write("nan")
    rewrite(folder / "suite.json", lambda s: change(s["cells"][1]))
    with pytest.raises(InputError, match=words):
        load_side(folder)


def test_a_cell_twice_is_refused(runs):
    folder = runs.write("double")
    rewrite(folder / "suite.json", lambda s: s["cells"].append(s["cells"][1]))
    with pytest.raises(InputError, match="is there twice"):
        read_finite_suite(folder / "suite.json")


def test_suites_of_different_versions_are_refused_and_both_are_named(runs):
    old, new = runs.write("v1"), runs.write("v2")
    rewrite(new / "suite.json", lambda s: s.update(schema="suite_result/2"))
    refuse_versions(old, old)
    with pytest.raises(InputError, match=r"v1 is suite_result/1 and .*v2 is suite_result/2"):
        refuse_versions(old, new)


def test_a_folder_without_a_suite_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match=r"holds no suite\.json"):
        load_side(tmp_path)
    (tmp_path / "suite.json").write_text("{")
    with pytest.raises(InputError, match="not JSON at line 1"):
        load_side(tmp_path)
