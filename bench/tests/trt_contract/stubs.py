"""Import the real TensorRT bindings where TensorRT is not installed.

The wheel holds the Python bindings only; three shared libraries are missing. They are made here from a few lines of C:
the names of the libraries come from the bindings' NEEDED entries, the functions from its undefined symbols, and each
function returns 0. Enums, classes, docstrings and signatures are then the real ones; nothing can be executed.

The wheels are fetched by ``make`` (``bindings-10.txt`` and ``bindings-11.txt`` beside this file) and carry NVIDIA's
licence: they are never committed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bench.paths import REPOSITORY

WHEELS = REPOSITORY / ".venv" / "trt-wheels"
TOOLS = ("gcc", "nm", "readelf")
_SYSTEM = re.compile(r"@|^(_?Py|_ITM_|__gmon_start__|__cxa_|dl(open|sym|close|error)$)")
"""Versioned symbols (glibc, libstdc++), those of Python, and the loader's, which 11.4 takes without a version."""
_OURS = re.compile(r"^libnv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings:
    """An unpacked wheel with its stub libraries."""

    version: str
    folder: Path
    libraries: Path
    symbols: tuple[str, ...]
    needed: tuple[str, ...]
    module: Path
    """The compiled module."""

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with ``tensorrt_bindings`` importable; a crash is the status of the child."""
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.libraries),
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(REPOSITORY)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


def why_not() -> str | None:
    """Why the bindings cannot be imported on this machine, or None."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"the stubs need {', '.join(missing)}"
    if not list(WHEELS.glob("tensorrt_cu13_bindings-*.whl")):
        return f"no wheel of the TensorRT bindings in {WHEELS}: `make .venv/.trt-wheels` fetches them"
    return None


def wheels() -> dict[str, Path]:
    """Version -> wheel."""
    return {path.name.split("-")[1]: path for path in sorted(WHEELS.glob("tensorrt_cu13_bindings-*.whl"))}


def unpack(wheel: Path, folder: Path) -> Bindings:
    """Unpack a wheel into ``folder`` and build its stub libraries there."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    (module,) = (folder / "site").rglob("tensorrt*.so")
    needed = tuple(n for n in _needed(module) if _OURS.match(n))
    symbols = tuple(s for s in _undefined(module) if not _SYSTEM.search(s))
    libraries = folder / "libraries"
    libraries.mkdir()
    source = libraries / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols), "utf-8")
    for name in needed:  # every library has every function: the loader takes the first
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(libraries / name), str(source)], check=True
        )
    return Bindings(version=wheel.name.split("-")[1], folder=folder / "site", libraries=libraries, symbols=symbols,
                    needed=needed, module=module)  # fmt: skip


def _needed(module: Path) -> list[str]:
    text = subprocess.run(["readelf", "-d", str(module)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+?)\]", text)


def _undefined(module: Path) -> list[str]:
    text = subprocess.run(
        ["nm", "-D", "--undefined-only", str(module)], capture_output=True, text=True, check=True
    ).stdout
    return [parts[1] for line in text.splitlines() if len(parts := line.split()) == 2 and parts[0] == "U"]
