"""The command line over the fakes: what a person types, sees and gets as exit code."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import testing

FAKE = ["--models", "bench.testing:fake_adapter", "--reference", "bench.testing:fake_backend:fp32", "--rounds", "2"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return testing.fake_folder(tmp_path_factory.mktemp("data") / "fakes", 32)


def backends(*names):
    return ["--backends", ",".join(f"bench.testing:{n}_backend" for n in names)]


def suite_in(folder):
    (path,) = Path(folder).glob("reports/*/suite.json")
    return json.loads(path.read_text())


def test_a_run_prints_the_table_and_the_page_and_ends_with_its_code(parity, images, tmp_path):
    code, out, _ = parity("run", *FAKE, *backends("fake", "slow"), "--fixtures", images, "--precisions", "fp32")
    assert code == 0
    assert "Still the same model in 1 of 1 cell" in out
    page = Path(re.sub(r"\s", "", re.search(r"Report (.*index\.html)", out, re.S).group(1)))
    assert page.is_file()
    assert suite_in(tmp_path)["exit_code"] == 0


def test_a_failure_is_exit_1_and_named_below_the_table(parity, images):
    code, out, _ = parity("run", *FAKE, *backends("fake", "shifted"), "--fixtures", images, "--precisions", "fp32")
    assert code == 1
    assert "failed" in out


def test_undecided_is_exit_3(parity, images):
    few = ("--fixtures", images, "--precisions", "fp32,int8", "--calibration", images, "--max-images", "8")
    code, _, _ = parity("run", *FAKE, *backends("fake"), *few)
    assert code == 3


def test_a_killed_lane_is_exit_1_and_the_rest_is_kept(parity, images, tmp_path):
    code, _, _ = parity("run", *FAKE, *backends("fake", "crashing"), "--fixtures", images, "--precisions", "fp32")
    assert code == 1
    statuses = {c["cell"]["backend"]: c["status"] for c in suite_in(tmp_path)["cells"]}
    assert statuses == {"fake": "passed", "fake-crash": "error"}


def test_json_output_is_the_suite(parity, images):
    words = ["run", *FAKE, *backends("fake", "slow"), "--fixtures", images, "--precisions", "fp32", "--json"]
    code, out, _ = parity(*words)
    assert code == 0
    assert json.loads(out)["schema"] == "suite_result/1"


def test_a_dry_run_prints_the_plan_and_runs_nothing(parity, images, tmp_path):
    code, out, _ = parity("run", *FAKE, *backends("fake", "unavailable"), "--fixtures", images, "--dry-run")
    assert code == 0
    assert "fake-fake-cpu-fp32-fakes-b1" in out
    assert "About" in out
    assert not (tmp_path / "reports").exists()


def test_the_report_is_drawn_again_to_the_same_bytes(parity, images, tmp_path):
    parity("run", *FAKE, *backends("fake", "missing_boxes"), "--fixtures", images, "--precisions", "fp32")
    (first,) = tmp_path.glob("reports/*/index.html")
    code, _, _ = parity("report", first.parent / "suite.json", "--out", tmp_path / "again")
    assert code == 0
    assert (tmp_path / "again" / "index.html").read_bytes() == first.read_bytes()


def test_scoring_the_predictions_of_a_run_gives_its_own_numbers(parity, images, tmp_path):
    parity("run", *FAKE, *backends("fake", "shifted"), "--fixtures", images, "--precisions", "fp32")
    for cell in suite_in(tmp_path)["cells"]:
        (path,) = tmp_path.glob(f"reports/*/predictions/*-{cell['cell']['backend']}-cpu-*.json")
        code, _, _ = parity("score", path, "--fixtures", images, "--json", tmp_path / "s.json")
        assert code == 0
        assert json.loads((tmp_path / "s.json").read_text())["stats"] == cell["accuracy"]["stats"]
        assert parity("validate", path)[0] == 0


def test_predict_wrap_writes_a_file_that_scores(parity, images, tmp_path):
    code, out, _ = parity(
        "predict",
        "bench.testing:fake_adapter",
        "--backend",
        "bench.testing:fake_backend",
        "--fixtures",
        images,
        "--out",
        tmp_path / "p.json",
        "--wrap",
    )
    assert code == 0, out
    assert json.loads((tmp_path / "p.json").read_text())["meta"]["model"] == "fake"
    code, out, _ = parity("score", tmp_path / "p.json", "--fixtures", images)
    assert "1.0000" in out


def test_recorded_outputs_replay_to_the_same_detections(parity, images, tmp_path):
    parity(
        "predict",
        "bench.testing:fake_adapter",
        "--backend",
        "bench.testing:fake_backend",
        "--fixtures",
        images,
        "--out",
        tmp_path / "p.json",
        "--record",
        tmp_path / "rec",
    )
    code, out, err = parity(
        "run",
        *FAKE,
        "--backends",
        "bench.testing:fake_backend,recorded",
        "--recording",
        tmp_path / "rec",
        "--fixtures",
        images,
        "--precisions",
        "fp32",
        "--json",
    )
    cells = {c["cell"]["backend"]: c for c in json.loads(out)["cells"]}
    assert cells["recorded"]["status"] == "passed", cells["recorded"]["reason"] + err
    assert cells["recorded"]["speed"] is None
    assert code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--backends", "onnxrtt"], "unknown backend 'onnxrtt'. Did you mean 'onnxrt'?"),
        (["run", "--models", "yolov11n"], "unknown model 'yolov11n'. Did you mean 'yolov10n'?"),
        (["run", "--precisions", "fp61"], "unknown precision 'fp61'. Did you mean"),
        (["run", "--models", "fastestdet"], "Type: --weights fastestdet=PATH"),
        (["run", "--models", "fastestdet", "--weights", "none.pth"], "no such file"),
        (["run", "--models", "yolov10n", "--fixtures", "no-such-set"], "no-such-set"),
        (["run", "--adapter", "none.py"], "no such file"),
        (["run", "--waivers", "none.toml"], "none.toml: cannot be read"),
        (["run", "--backends", "torch", "--require-backends", "trt"], "not among --backends"),
        (["score", "p.json"], "either --fixtures NAME|DIR or --annotations"),
        (["report", "none.json"], "none.json: cannot be read"),
        (["validate", "none.json"], "none.json: cannot be read"),
        (["list", "modles"], "Did you mean 'models'?"),
        (["run", "--bakends", "torch"], "--bakends"),
        (["rum"], "rum"),
    ],
)
def test_a_wrong_word_is_exit_2_with_the_remedy_and_no_traceback(parity, words, message):
    code, out, err = parity(*words)
    assert code == 2
    assert message in re.sub(r"\s+", " ", out + err)
    assert "Traceback" not in err


def test_an_unknown_option_in_the_config_file_is_exit_2(parity, tmp_path):
    (tmp_path / "c.toml").write_text("backnds = 'torch'\n")
    code, _, err = parity("run", "--config", "c.toml")
    assert code == 2
    assert "Did you mean 'backends'?" in err


def test_a_report_folder_that_cannot_be_written_is_exit_2_before_anything_runs(parity, images, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = parity("run", *FAKE, *backends("fake"), "--fixtures", images, "--out", "file")
    assert code == 2
    assert "--out DIR" in err


def test_a_pickle_with_code_is_refused_and_never_executed(parity, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Bomb()))
    code, _, err = parity(
        "run",
        "--models",
        "yolov10n",
        "--weights",
        "bad.pth",
        "--backends",
        "torch",
        "--precisions",
        "fp32",
        "--max-images",
        "1",
    )
    assert not (tmp_path / "executed").exists()
    assert code == 2
    assert "bad.pth" in err


def test_an_image_that_cannot_be_read_is_named(parity, tmp_path):
    folder = testing.fake_folder(tmp_path / "broken", 3)
    (folder / "images" / "000002.png").write_bytes(b"\x89PNG\r\n")
    code, _, err = parity("run", *FAKE, *backends("fake"), "--fixtures", folder, "--precisions", "fp32")
    assert code == 2
    assert "000002.png" in err
    assert list(tmp_path.glob("reports/*/index.html")), "what was finished is kept"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.onnx", b"\x08\x07\x12\x07pytorch", "cut.onnx"),
        ("empty.onnx", b"", "empty.onnx"),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "cut.safetensors"),
        ("text.pth", b"hello", "text.pth"),
    ],
)
def test_weights_that_cannot_be_used_are_exit_2_and_named(parity, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    code, _, err = parity(
        "run",
        "--models",
        "yolov10n",
        "--weights",
        name,
        "--backends",
        "onnxrt",
        "--precisions",
        "fp32",
        "--max-images",
        "1",
    )
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_checkpoint_whose_keys_do_not_match_is_exit_2_and_lists_them(parity, tmp_path):
    from safetensors.numpy import save_file

    save_file({"model.0.conv.weight": np.zeros((16, 3, 3, 3), np.float32)}, tmp_path / "few.safetensors")
    code, _, err = parity(
        "run",
        "--models",
        "yolov10n",
        "--weights",
        "few.safetensors",
        "--backends",
        "torch",
        "--precisions",
        "fp32",
        "--max-images",
        "1",
    )
    assert code == 2
    assert "few.safetensors" in err
    assert "model.23.one2one_cv3.0.2.bias" in err, "a missing key is named"


def test_ctrl_c_ends_the_lanes_saves_and_is_exit_130(images, tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench",
        "run",
        *FAKE,
        *backends("fake", "hanging"),
        "--fixtures",
        str(images),
        "--precisions",
        "fp32",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a test run in the background of a script inherits an ignored SIGINT, and so would the command
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("reports/*/logs/fake-fake-hang-*.log")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    suite = suite_in(tmp_path)
    assert suite["interrupted"]
    assert {c["cell"]["backend"]: c["status"] for c in suite["cells"]} == {"fake": "passed", "fake-hang": "skipped"}
    assert list(tmp_path.glob("reports/*/index.html"))
    left = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    assert left == ""
    assert "Traceback" not in out + err


def test_two_runs_at_once_are_both_right(images, tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench",
        "run",
        *FAKE,
        *backends("fake", "slow"),
        "--fixtures",
        str(images),
        "--precisions",
        "fp32",
        "--quiet",
    ]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    assert len(list(tmp_path.glob("reports/*/suite.json"))) == 2


def test_help_is_for_people(parity):
    code, out, _ = parity("--help")
    assert code == 0
    assert "Exit codes" in out
    _, out, _ = parity("run", "--help")
    for option in ("--dataset", "--checkpoint", "--half", "--dry-run", "--require-backends"):
        assert option in out


def test_list_knows_the_models_backends_and_fixtures(parity):
    assert "yolov10n" in parity("list", "models")[1]
    assert "openvino" in parity("list", "backends")[1]
    assert "shapes" in parity("list", "fixtures")[1]
    assert json.loads(parity("list", "backends", "--json")[1])


def test_an_interrupted_run_goes_on_where_it_was(parity, images, tmp_path):
    words = ["run", *FAKE, *backends("fake", "slow"), "--fixtures", images, "--precisions", "fp32", "--json"]
    first = json.loads(parity(*words)[1])
    (gone,) = tmp_path.glob("reports/*/cells/*fake-slow*.json")
    gone.unlink()
    _, _, err = parity(*[w for w in words if w != "--json"], "--resume", first["run_id"])
    assert "fake-fake-slow-cpu-fp32-fakes-b1 is measured again: it was not finished" in err
    assert "fake-fake-cpu-fp32-fakes-b1 is measured again" not in err
    again = suite_in(tmp_path)
    assert again["run_id"] == first["run_id"]
    for before, after in zip(first["cells"], again["cells"], strict=True):
        assert after["status"] == before["status"] == "passed"
        assert after["accuracy"] == before["accuracy"]
        assert after["speed"]["samples"] == before["speed"]["samples"]


def test_what_was_measured_with_other_settings_is_measured_again(parity, images, tmp_path):
    words = ["run", *FAKE, *backends("fake"), "--fixtures", images, "--precisions", "fp32"]
    parity(*words)
    _, _, err = parity(*words, "--max-images", "31", "--resume", suite_in(tmp_path)["run_id"])
    assert "is measured again: it was measured with another images" in err


def test_an_unknown_run_to_resume_is_exit_2(parity, images):
    code, _, err = parity("run", *FAKE, *backends("fake"), "--fixtures", images, "--resume", "20260101-000000-abcdef")
    assert code == 2
    assert "--resume 20260101-000000-abcdef: no such run in reports" in err
