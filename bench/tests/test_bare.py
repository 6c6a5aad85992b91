"""Scoring and reporting in an environment that holds the declared base dependencies and nothing else."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bench import testing

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "lightning", "safetensors", "pytest")


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
    """A folder that serves as the whole site-packages: links to the base dependencies and to this project."""
    site = tmp_path_factory.mktemp("bare")
    base = [r for r in metadata.requires("backend-parity") if "extra ==" not in r]
    for name in closure(base):
        for file in metadata.distribution(name).files or []:
            top = file.parts[0]
            if top != ".." and not (site / top).exists():
                (site / top).symlink_to(
                    Path(file.locate()).parents[len(file.parts) - 2] if len(file.parts) > 1 else file.locate()
                )
    for name in ("bench", "schemas", "fixtures", "adapters"):
        (site / name).symlink_to(REPOSITORY / name)
    info = metadata.distribution("backend-parity")
    (site / "backend_parity-0.dist-info").mkdir()
    for part in ("METADATA", "entry_points.txt"):
        (site / "backend_parity-0.dist-info" / part).write_text(info.read_text(part) or "")
    return site


def run(site, *words, cwd):
    code = f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv = ['parity', *{list(words)!r}]\n"
    code += "from bench.__main__ import main; main()"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_nothing_heavy_can_be_imported_there(bare, tmp_path):
    code = f"import sys, importlib.util; sys.path.insert(0, {str(bare)!r})\n"
    code += f"print([m for m in {HEAVY!r} if importlib.util.find_spec(m)])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"


def test_predictions_are_scored_there(bare, tmp_path):
    images = testing.fake_folder(tmp_path / "fakes", 3)
    truth = json.loads((images / "annotations" / "instances.json").read_text())
    (tmp_path / "p.json").write_text(
        json.dumps(
            [
                {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
                for a in truth["annotations"]
            ]
        )
    )
    done = run(bare, "score", str(tmp_path / "p.json"), "--fixtures", str(images), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1.0000" in done.stdout


def test_two_files_are_compared_there(bare, tmp_path):
    images = testing.fake_folder(tmp_path / "fakes", 32)
    truth = json.loads((images / "annotations" / "instances.json").read_text())
    for name, shift in (("a", 0.0), ("b", 1e-9)):
        rows = [
            {
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "bbox": [a["bbox"][0] + shift, *a["bbox"][1:]],
                "score": 0.9,
            }
            for a in truth["annotations"]
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    words = ["score", str(tmp_path / "a.json"), "--against", str(tmp_path / "b.json"), "--fixtures", str(images)]
    done = run(bare, *words, "--bootstrap", "100", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "passed: " in done.stdout
    assert "pycocotools" in done.stdout


def test_a_report_is_drawn_there(bare, tmp_path):
    from bench.schema import dumps
    from bench.tests.sample_suite import sample_suite

    (tmp_path / "suite.json").write_text(dumps(sample_suite()))
    done = run(bare, "report", str(tmp_path / "suite.json"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").stat().st_size < 1_000_000
