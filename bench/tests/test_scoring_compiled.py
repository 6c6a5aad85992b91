"""Compiling: nothing is loaded before something is scored, and it works wherever code can or cannot be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.paths import REPOSITORY

ADD = """
from jit import compiled

@compiled
def add(a, b):
    return a + b

print(add(1, 2), add.stats.cache_path)
"""


def run(program: str, folder: Path, **environment: str) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", *program.split()],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    shutil.copy(REPOSITORY / "bench" / "scoring" / "jit.py", folder)
    (folder / "add.py").write_text(ADD)
    return folder


def test_importing_the_scorer_loads_neither_numba_nor_an_oracle() -> None:
    program = "import sys, bench.scoring; print(sorted({'numba', 'pycocotools', 'hotcoco'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]", done.stderr


def test_code_is_kept_beside_the_package(package: Path) -> None:
    assert run("add.py", package).split() == ["3", str(package / "__pycache__")]
    assert list((package / "__pycache__").glob("add.add-*.nbc"))


def test_code_is_kept_in_the_users_folder_where_the_package_cannot_be_written(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("a file, so that no folder can be made")
    value, kept = run("add.py", package, XDG_CACHE_HOME=str(tmp_path / "cache")).split()
    assert value == "3"
    assert Path(kept).is_relative_to(tmp_path / "cache")
    assert list(Path(kept).glob("add.add-*.nbc"))


def test_code_runs_where_nothing_can_be_kept(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("a file, so that no folder can be made")
    (tmp_path / "cache").write_text("another")
    assert run("add.py", package, XDG_CACHE_HOME=str(tmp_path / "cache")).split() == ["3", "None"]
