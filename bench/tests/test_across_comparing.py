"""Two runs beside each other: every way in which a cell can be worse, and every way in which that cannot be said."""

import json
import shutil

import pytest

from bench.across.accuracy import GroundTruth, PairedAccuracy
from bench.across.baselines import Side, load_side, run_record
from bench.across.comparing import baseline_command, compare_runs, to_document
from bench.errors import InputError, UsageError
from bench.tests.sample_runs import Runs, make_suite

FP32, INT8 = "fake-onnxrt-cpu-fp32-fakes-b1", "fake-onnxrt-cpu-int8-fakes-b1"
REFERENCE, TRT = "fake-torch-cpu-fp32-fakes-b1", "fake-trt-cuda0-fp16-fakes-b1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = Runs(tmp_path_factory.mktemp("runs"))
    made.base = made.write("base")
    return made


@pytest.fixture
def compare(runs):
    """Compare a candidate suite with the base, which has three quiet runs unless told otherwise."""

    def go(cand, *, base=None, ratios=(1.998, 2.0, 2.003), truth=None, **options):
        old = load_side(base or runs.base)
        stored = []
        for number, ratio in enumerate(ratios):
            record = run_record(old.suite) if number == 0 else run_record(make_suite(f"b{number}", ratio=ratio))
            for cell in record["cells"]:
                if cell["ratio"] is not None and cell["id"] != REFERENCE:
                    cell["ratio"] = ratio * (2 if "int8" in cell["id"] else 1)
            stored.append(record)
        side = Side(path=old.path, suite=old.suite, folder=old.folder, runs=tuple(stored))
        accuracy = PairedAccuracy(truth or GroundTruth([runs.fixtures]), margins={}, resamples=200, seed=0)
        document = to_document(compare_runs(side, load_side(cand), accuracy, **options))
        return document, {c["id"]: c for c in document["cells"]}

    return go


def changed(name, change, **options):
    """A candidate suite after ``change`` was applied to its cells by ``backend precision``."""
    suite = make_suite(name, **options)
    change({f"{c['cell']['backend']} {c['cell']['precision']}": c for c in suite["cells"]}, suite)
    return suite


def test_the_same_again_is_exit_0_with_every_cell_judged(runs, compare):
    document, cells = compare(runs.write("same"))
    assert document["exit_code"] == 0
    assert [cells[n]["status"] for n in (REFERENCE, FP32, INT8, TRT)] == ["passed", "passed", "passed", "skipped"]
    assert cells[FP32]["accuracy"]["ci95"] == [0.0, 0.0]
    assert cells[FP32]["speed"]["verdict"] == "same"
    assert cells[REFERENCE]["speed"] is None, "its ratio is 1 by definition"


def test_identical_detections_are_not_scored_again(runs, compare):
    class Unread(GroundTruth):
        def find(self, name):
            raise AssertionError("looked for the ground truth")

    document, _ = compare(runs.write("identical"), truth=Unread())
    assert document["exit_code"] == 0


def test_lost_boxes_fail_by_the_paired_interval_of_the_stored_detections(runs, compare):
    document, cells = compare(runs.write("lossy", missed={"onnxrt int8": 0.3}))
    cell = cells[INT8]
    assert document["exit_code"] == 1
    assert cell["status"] == "failed"
    assert cell["accuracy"]["verdict"] == "failed"
    assert cell["accuracy"]["ci95"][1] < -cell["accuracy"]["margin"] < 0
    assert cell["accuracy"]["delta"] == pytest.approx(cell["accuracy"]["cand_ap"] - cell["accuracy"]["base_ap"])
    assert "AP to the base: Loses" in cell["reason"]
    assert cells[FP32]["status"] == "passed"


def test_a_loss_at_the_margin_is_undecided(runs, compare):
    document, cells = compare(runs.write("close", missed={"onnxrt int8": 0.01}, seed=3))
    assert cells[INT8]["accuracy"]["verdict"] == "undecided", cells[INT8]["accuracy"]
    assert document["exit_code"] == 3


def test_a_gain_with_the_same_file_fails_and_with_another_file_asks_a_person(runs, compare):
    base = runs.write("poor", missed={"onnxrt int8": 0.3})
    document, cells = compare(runs.write("leak"), base=base)
    assert cells[INT8]["accuracy"]["verdict"] == "suspicious"
    assert (cells[INT8]["status"], document["exit_code"]) == ("failed", 1)
    other = changed("retrained", lambda c, _: c["onnxrt int8"]["artifact"].update(sha256="c" * 64))
    document, cells = compare(runs.write("retrained", other), base=base)
    assert (cells[INT8]["status"], document["exit_code"]) == ("undecided", 3)
    assert "store a new baseline" in cells[INT8]["reason"]
    assert [n["text"] for n in document["notes"] if n["kind"] == "artifact"] == [
        "onnx of fake onnxrt int8: bbbbbbbbbbbb → cccccccccccc"
    ]


def test_a_slower_cell_fails_and_a_faster_one_is_reported(runs, compare):
    document, cells = compare(runs.write("slow", make_suite("slow", ratio=1.7)))
    assert document["exit_code"] == 1
    assert cells[FP32]["speed"]["verdict"] == "slower"
    assert cells[FP32]["reason_short"] == "speed × 0.85"
    document, cells = compare(runs.write("fast", make_suite("fast", ratio=2.6)))
    assert (document["exit_code"], cells[FP32]["speed"]["verdict"]) == (0, "faster")


def test_a_base_of_one_run_leaves_speed_undecided_and_says_what_to_type(runs, compare):
    document, cells = compare(runs.write("one"), ratios=(2.0,))
    assert document["exit_code"] == 3
    assert "there is 1 stored run" in cells[FP32]["reason"]
    (note,) = [n["text"] for n in document["notes"] if n["kind"] == "baseline"]
    assert "parity baseline --models fake --runs 3 --out DIR" in note
    assert document["base"]["runs"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["host"].update(cpu="Xeon 7"), "other CPU"),
        (lambda s: s["host"].update(gpu="H100, 550.1"), "other GPU"),
        (lambda s: s["protocol"].update(threads=4), "other threads"),
        (lambda s: s["reference"]["cells"].update(fake="fake-onnxrt-cpu-fp32-fakes-b1"), "other reference cell"),
    ],
)
def test_another_host_or_protocol_leaves_speed_undecided_and_accuracy_judged(runs, compare, change, words):
    suite = make_suite("elsewhere", ratio=0.5)
    change(suite)
    document, cells = compare(runs.write("elsewhere", suite, missed={"onnxrt int8": 0.3}))
    assert cells[FP32]["speed"]["reason"] == f"not comparable: {words}."
    assert cells[FP32]["status"] == "undecided"
    assert cells[FP32]["accuracy"]["verdict"] == "passed"
    assert cells[INT8]["status"] == "failed", "its accuracy is judged all the same"
    assert document["notes"]


def test_a_new_driver_is_a_note_and_no_other_gpu(runs, compare):
    old, new = make_suite("gpu-a"), make_suite("gpu-b")
    old["host"]["gpu"], new["host"]["gpu"] = "H200, 550.1", "H200, 560.2"
    document, cells = compare(runs.write("gpu-b", new), base=runs.write("gpu-a", old))
    assert cells[FP32]["speed"]["verdict"] == "same"
    assert {"kind": "version", "text": "GPU driver: H200, 550.1 → H200, 560.2"} in document["notes"]


def test_other_images_are_not_comparable_in_accuracy(runs, compare):
    folder = runs.write("images")
    suite = json.loads((folder / "suite.json").read_text())
    suite["protocol"]["fixtures"]["fakes"]["sha256"] = "f" * 64
    (folder / "suite.json").write_text(json.dumps(suite))
    document, cells = compare(folder)
    assert "other images" in cells[FP32]["accuracy"]["reason"]
    assert cells[FP32]["accuracy"]["delta"] is None
    assert document["exit_code"] == 3


def test_ground_truth_that_changed_since_is_not_scored_against(runs, compare):
    import dataclasses

    other = GroundTruth([dataclasses.replace(runs.fixtures, sha256="e" * 64)])
    _, cells = compare(runs.write("lossy2", missed={"onnxrt int8": 0.3}), truth=other)
    assert "other images" in cells[INT8]["accuracy"]["reason"]
    _, cells = compare(runs.write("lossy3", missed={"onnxrt int8": 0.3}), truth=GroundTruth())
    assert "Type: --fixtures DIR" in cells[INT8]["accuracy"]["reason"]


def test_stored_detections_that_are_missing_or_of_another_run_are_undecided(runs, compare):
    folder = runs.write("gone")
    (folder / "predictions" / f"{FP32}.json").unlink()
    document, cells = compare(folder)
    assert "are not there" in cells[FP32]["accuracy"]["reason"]
    assert document["exit_code"] == 3
    swapped, lossy = runs.write("swapped"), runs.write("other", missed={"onnxrt int8": 0.3})
    shutil.copy(lossy / "predictions" / f"{INT8}.json", swapped / "predictions" / f"{INT8}.json")
    _, cells = compare(swapped)
    # byte for byte another file, with the suite's AP of the honest one: the file is of another run
    assert "stored detections score AP" in cells[INT8]["accuracy"]["reason"]


def test_a_stored_file_that_cannot_be_read_is_an_input_error(runs, compare):
    folder = runs.write("cut", missed={"onnxrt int8": 0.3})
    path = folder / "predictions" / f"{INT8}.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(InputError, match=r"int8-fakes-b1\.json"):
        compare(folder)


def test_a_cell_that_broke_fails_whatever_its_detections_say(runs, compare):
    def crash(cells, _):
        cells["onnxrt int8"].update(status="error", reason="Killed by SIGSEGV.", reason_short="SIGSEGV")

    document, cells = compare(runs.write("crash", changed("crash", crash)))
    assert (cells[INT8]["status"], cells[INT8]["change"], document["exit_code"]) == ("failed", "worse", 1)
    assert (cells[INT8]["base_status"], cells[INT8]["cand_status"]) == ("passed", "error")
    assert "SIGSEGV" in cells[INT8]["reason"]


def test_a_lost_cell_fails_unless_the_run_was_asked_for_fewer(runs, compare):
    from bench.across.comparing import Scope

    folder = runs.write("lost", changed("lost", lambda c, s: s["cells"].remove(c["onnxrt int8"])))
    document, cells = compare(folder)
    assert (cells[INT8]["status"], cells[INT8]["change"], document["exit_code"]) == ("failed", "lost", 1)
    document, cells = compare(folder, scope=Scope(lost=False))
    assert (cells[INT8]["status"], document["exit_code"]) == ("skipped", 0)


def test_a_cell_that_says_why_it_did_not_run_is_undecided(runs, compare):
    def skip(cells, _):
        cells["onnxrt int8"].update(
            status="skipped", reason="No onnxruntime.", accuracy=None, speed=None, artifact=None, parity=[]
        )

    document, cells = compare(runs.write("skip", changed("skip", skip)))
    assert (cells[INT8]["status"], cells[INT8]["reason_short"], document["exit_code"]) == (
        "undecided",
        "did not run",
        3,
    )
    assert "No onnxruntime." in cells[INT8]["reason"]


def test_an_added_cell_keeps_its_own_verdict_and_nothing_in_common_is_not_green(runs, compare):
    base = runs.write("few", changed("few", lambda c, s: s["cells"].remove(c["onnxrt int8"])))
    document, cells = compare(runs.write("more"), base=base)
    assert (cells[INT8]["change"], cells[INT8]["status"], document["exit_code"]) == ("added", "passed", 0)
    only = make_suite("only")
    only["cells"] = only["cells"][2:3]
    other = make_suite("nothing")
    other["cells"] = other["cells"][:1]
    document, _ = compare(runs.write("only", only), base=runs.write("nothing", other))
    assert document["exit_code"] == 1, "the reference is lost"
    skipped = make_suite("idle")
    skipped["cells"] = skipped["cells"][3:]
    document, _ = compare(runs.write("idle", skipped), base=runs.write("idle-base", skipped))
    assert document["exit_code"] == 3, "nothing was compared"


def test_undecided_in_its_own_run_is_not_green_and_what_a_baseline_added_is_forgotten(runs, compare):
    def doubt(cells, _):
        cells["onnxrt int8"].update(status="undecided", reason="600 images cannot decide.", reason_short="undecided")

    document, cells = compare(runs.write("doubt", changed("doubt", doubt)))
    assert (cells[INT8]["status"], document["exit_code"]) == ("undecided", 3)
    assert "undecided in its own run: 600 images" in cells[INT8]["reason"]

    def gated(cells, _):
        finding = {"check": "baseline-speed", "status": "failed", "reason": "slow then", "short": "slow"}
        cells["onnxrt int8"].update(status="failed", reason="slow then", reason_short="slow", findings=[finding])

    document, cells = compare(runs.write("gated", changed("gated", gated)))
    assert (cells[INT8]["status"], cells[INT8]["cand_status"], document["exit_code"]) == ("passed", "passed", 0)


def test_an_emulated_cell_and_a_failed_one_have_no_speed(runs, compare):
    def emulate(cells, _):
        cells["onnxrt int8"]["speed"].update(verdict="emulated", ratio=None, ratio_ci95=None)

    _, cells = compare(runs.write("emulated", changed("emulated", emulate)))
    assert cells[INT8]["speed"] is None
    untimed = changed("untimed", lambda c, _: c["onnxrt int8"].update(speed=None))
    _, cells = compare(runs.write("untimed", untimed))
    assert cells[INT8]["speed"]["verdict"] == "undecided"
    assert "was not timed" in cells[INT8]["speed"]["reason"]


def test_what_changed_is_called_out_old_value_first(runs, compare):
    suite = make_suite("notes")
    suite["host"]["versions"] = {**suite["host"]["versions"], "onnxruntime": "1.32.0"}
    suite["protocol"]["harness"] = "backend-parity 0.2.0"
    suite["protocol"]["margins"] = {"fp32": "wide"}
    suite["cells"][0]["speed"]["latency_ms"]["p50"] = 25.0
    document, _ = compare(runs.write("notes", suite))
    texts = {(n["kind"], n["text"]) for n in document["notes"]}
    assert ("version", "onnxruntime: 1.31.0 → 1.32.0") in texts
    assert ("protocol", "harness: backend-parity 0.1.0 → backend-parity 0.2.0") in texts
    assert ("protocol", "margins fp32: absent → wide") in texts
    assert any(kind == "speed" and "20 → 25 ms" in text for kind, text in texts)


def test_a_run_is_not_compared_with_itself(runs, compare):
    with pytest.raises(UsageError, match="cannot fail"):
        compare(runs.base)
    with pytest.raises(UsageError, match="run b1 is on both sides"):
        compare(runs.write("b1"))  # not the base's last run, but one of those behind its spread


def test_the_suggested_command_keeps_the_plan_and_drops_the_rest():
    typed = "parity run --models a --out reports --baseline b.json --quiet --rounds 40 --margin int8=0.01"
    assert baseline_command(typed) == "parity baseline --models a --rounds 40 --margin int8=0.01 --runs 3 --out DIR"
    assert baseline_command("pytest suites/").startswith("parity baseline [the options of this run]")
