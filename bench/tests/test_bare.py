"""Life without a framework: an environment that holds the declared base dependencies and nothing else.

Every verb is also run on what looks like another system to our code (``other_system.py``): nothing of this path may
need Linux.
"""

import json
import os
import re
import subprocess
import venv
from importlib import metadata
from pathlib import Path

import pytest

from bench import testing
from bench.tests.sample_predictions import detection
from bench.tests.sample_runs import Runs

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "lightning", "safetensors", "pytest", "huggingface_hub")
OTHER_SYSTEM = Path(__file__).with_name("other_system.py")


def closure(requirements):
    """Names of all distributions that these requirements bring, extras left out."""
    found, todo = set(), list(requirements)
    while todo:
        text = todo.pop()
        if "extra ==" in text or "python_version <" in text:
            continue
        name = re.match(r"[A-Za-z0-9._-]+", text).group().lower().replace("_", "-")
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # a marker for another platform
        found.add(name)
        todo.extend(distribution.requires or [])
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Python of a virtual environment with links to the base dependencies and to this project; its children too."""
    folder = tmp_path_factory.mktemp("bare")
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    base = [r for r in metadata.requires("backend-parity") if "extra ==" not in r]
    for name in closure(base):
        for file in metadata.distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(
                    Path(file.locate()).parents[len(file.parts) - 2] if len(file.parts) > 1 else file.locate()
                )
    for name in ("bench", "schemas", "fixtures", "adapters"):
        (site / name).symlink_to(REPOSITORY / name)
    info = metadata.distribution("backend-parity")
    (site / "backend_parity-0.dist-info").mkdir()
    for part in ("METADATA", "entry_points.txt"):
        (site / "backend_parity-0.dist-info" / part).write_text(info.read_text(part) or "")
    return folder / "bin" / "python"


def start(python, words, *, cwd):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(python), *map(str, words)],
        capture_output=True,
        cwd=cwd,
        env=environment | {"PYTHONNOUSERSITE": "1", "PARITY_CACHE": str(cwd / "cache"), "COLUMNS": "120"},
        timeout=240,
        check=False,
    )


@pytest.fixture(params=["linux", "another system"])
def parity(request, bare, tmp_path):
    """Type a command in the bare environment; a traceback is never an answer."""
    other = request.param != "linux"
    head = ["-X", "warn_default_encoding", OTHER_SYSTEM] if other else ["-m", "bench"]

    def typed(*words):
        done = start(bare, [*head, *words], cwd=tmp_path)
        # what no character set can say is told as JSON escapes, so that any of them decodes
        done.stdout, done.stderr = (b.decode("cp1252" if other else "utf-8") for b in (done.stdout, done.stderr))
        assert "Traceback" not in done.stderr, done.stderr
        return done

    typed.other = other
    return typed


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def images(tmp_path):
    return testing.fake_folder(tmp_path / "fakes", 32)


def results(images, shift=0.0):
    truth = json.loads((images / "annotations" / "instances.json").read_text())
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [a["bbox"][0] + shift, *a["bbox"][1:]],
            "score": 0.9,
        }
        for a in truth["annotations"]
    ]


def test_nothing_heavy_can_be_imported_there_nor_in_its_children(bare, tmp_path):
    ask = (
        f"import importlib.util as u; print([m for m in {HEAVY!r} if u.find_spec(m)], u.find_spec('bench') is not None)"
    )
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], check=True)"
    for code in (ask, child):
        assert start(bare, ["-c", code], cwd=tmp_path).stdout.decode().strip() == "[] True"


def test_predictions_are_scored_there(parity, images, tmp_path):
    done = parity("score", write(tmp_path / "p.json", results(images)), "--fixtures", images)
    assert done.returncode == 0, done.stderr
    assert "1.0000" in done.stdout


@pytest.mark.parametrize("parity", ["another system"], indirect=True)
@pytest.mark.parametrize("form", ["A", "B", "C"])
def test_every_form_is_scored_there(parity, images, tmp_path, form):
    truth = json.loads((images / "annotations" / "instances.json").read_text())
    label = {c["id"]: n for n, c in enumerate(sorted(truth["categories"], key=lambda c: c["id"]))}
    found = {image["file_name"]: [] for image in truth["images"]}
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    for a in truth["annotations"]:
        box = dict(zip(("x", "y", "w", "h"), a["bbox"], strict=True))
        found[names[a["image_id"]]].append({"class_id": label[a["category_id"]], "score": 0.9, "bbox": box})
    entries = [{"image": f"C:\\data\\{name}", "detections": rows} for name, rows in found.items()]
    wrapped = {"schema_version": 1, "predictions": entries, "meta": {"bbox_format": "xywh_abs"}}
    path = write(tmp_path / "p.json", {"A": entries, "B": wrapped, "C": found}[form])
    done = parity("score", path, "--fixtures", images, *([] if form == "B" else ["--bbox-format", "xywh_abs"]))
    assert done.returncode == 0, done.stderr
    assert "1.0000" in done.stdout


def test_two_files_are_compared_there(parity, images, tmp_path):
    one, other = (write(tmp_path / f"{n}.json", results(images, shift)) for n, shift in (("a", 0.0), ("b", 1e-9)))
    done = parity("score", one, "--against", other, "--fixtures", images, "--bootstrap", "100")
    assert done.returncode == 0, done.stderr
    assert "passed: " in done.stdout
    assert "pycocotools" in done.stdout


def test_two_runs_are_compared_there(parity, tmp_path):
    runs = Runs(tmp_path)
    base, worse = runs.write("base"), runs.write("worse", missed={"onnxrt int8": 0.3})
    for out in ("c.json", "-"):
        done = parity("compare", base, worse, "--fixtures", runs.images, "--bootstrap", "200", "--json", out,
                      "--markdown", "c.md", "--junit", "c.xml")  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["exit_code"] == 1
    assert json.loads((tmp_path / "c.json").read_text("utf-8"))["schema"] == "compare_result/1"
    assert (tmp_path / "c.md").stat().st_size > 100


def test_a_report_and_a_history_are_drawn_there(parity, tmp_path):
    from bench.schema import dumps
    from bench.tests.sample_suite import sample_suite

    (tmp_path / "suite.json").write_text(dumps(sample_suite(intervals=True)), encoding="utf-8")
    done = parity("report", tmp_path / "suite.json", "--markdown", "s.md", "--junit", "s.xml")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").stat().st_size < 1_000_000
    assert parity("history", tmp_path, "--json").returncode == 0


def test_a_file_is_validated_there_and_any_name_can_be_printed(parity, tmp_path):
    name = "画像-é.jpg"
    path = write(tmp_path / "p.json", {name: [detection()]})
    assert parity("validate", path).returncode == 0
    done = parity("validate", write(path, {name: [detection(score="0.5")]}))
    assert done.returncode == 2
    shown = "\\u753b\\u50cf-é.jpg" if parity.other else name
    assert f'$["{shown}"][0].score' in done.stdout
    assert "fix: remove the quotes: 0.5" in done.stdout
    done = parity("validate", path, "--json")
    assert json.loads(done.stdout)["violations"][0]["path"] == f'$["{name}"][0].score'


def test_registered_names_are_listed_there(parity):
    for what, known in (("models", "yolov10n"), ("backends", "onnxrt"), ("fixtures", "shapes"), ("protocols", "coco")):
        done = parity("list", what)
        assert done.returncode == 0, done.stderr
        assert known in done.stdout


def test_the_doctor_says_what_is_missing_there(parity):
    done = parity("doctor", "--json")
    assert done.returncode == 0, done.stderr
    cells = [c for c in json.loads(done.stdout)["cells"] if c["device"] == "cpu" and c["precision"] == "fp32"]
    reasons = {c["backend"]: c["reason"] for c in cells if c["mode"] is None}
    for name in ("torch", "onnxrt", "openvino", "trt"):
        assert ("need Linux" if parity.other else "pip install") in reasons[name]
    assert parity("doctor").returncode == 0


def test_a_run_there_is_refused_with_what_to_type(parity, images):
    done = parity("run", "--models", "yolov10n", "--fixtures", images, "--dry-run")
    assert done.returncode == 2
    assert "pip install" in done.stderr


def test_scenarios_of_stored_predictions_are_scored_there(parity, images, tmp_path):
    path = write(tmp_path / "p.json", results(images))
    done = parity("scenarios", "--adapter", "precomputed", "--predictions", path, "--fixtures", images, "--max-images",
                  "20", "--out", tmp_path / "scenarios", "--bootstrap", "100")  # fmt: skip
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "clean" in done.stdout
    assert json.loads((tmp_path / "scenarios" / "scenarios.json").read_text("utf-8"))["schema"] == "scenario_result/1"


def test_the_other_system_lacks_for_our_modules_what_third_parties_keep(bare, tmp_path):
    code = f"""
import runpy, types
runpy.run_path({str(OTHER_SYSTEM)!r})["hide"]()
ours = types.ModuleType("bench.probe_of_the_disguise")
exec("import os, signal", vars(ours))
print([hasattr(ours.os, "fork"), hasattr(ours.os, "pidfd_open"), hasattr(ours.signal, "SIGKILL")])
for module in ("fcntl", "resource"):
    try:
        exec(f"import {{module}}", vars(ours))
    except ModuleNotFoundError:
        print("no", module)
import fcntl, os
print(hasattr(os, "fork"))
"""
    done = start(bare, ["-c", code], cwd=tmp_path)
    assert done.stdout.decode().split("\n")[:4] == ["[False, False, False]", "no fcntl", "no resource", "True"], done
