"""A build in a child process: TensorRT can end the process it lives in, and a build can run out of memory.

The first call into TensorRT happens in the child, after the CUDA driver was asked in the parent.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backends.cuda import problem as cuda_problem
from bench.errors import ArtifactError, BenchError, InputError, Unavailable, Unsupported, UsageError
from bench.files import write_atomic
from bench.trt.build import build_engine
from bench.trt.hostkey import read_host
from bench.trt.inspector import layer_record
from bench.trt.options import from_job

if TYPE_CHECKING:
    from bench.trt.build import Built
    from bench.trt.hostkey import HostKey
    from bench.trt.options import BuildOptions

_RAISABLE: dict[str, type[BenchError]] = {
    kind.__name__: kind for kind in (ArtifactError, InputError, Unavailable, Unsupported, UsageError)
}
_TAIL = 2000
"""Characters of the child's output that are shown when it died without a word of its own."""


def require_tensorrt(device: int = 0) -> None:
    """Look for the package and ask the CUDA driver for GPU ``device``, without importing TensorRT.

    Raises:
        Unavailable: what is missing.
    """
    trouble = cuda_problem(device)
    try:
        installed = importlib.util.find_spec("tensorrt") is not None
    except ValueError:  # sys.modules["tensorrt"] is None: the import system's way to block a package
        installed = False
    if trouble:
        missing = "" if installed else "; the package tensorrt is not installed either"
        raise Unavailable(f"no engine can be built here: {trouble}{missing}")
    if not installed:
        raise Unavailable(
            f"no engine can be built here: the package tensorrt is not installed in {sys.executable}. "
            "Type: pip install tensorrt"
        )


def run_build(
    onnx: Path, options: BuildOptions, *, engine_name: Path, scratch: Path, device: int = 0
) -> tuple[bytes, dict[str, Any]]:
    """Build in a child process.

    Args:
        onnx: file to build from.
        options: what to build.
        engine_name: name of the engine in the trtexec lines.
        scratch: folder that exists and has room for the engine.
        device: number of the GPU, counted as CUDA does.

    Returns:
        The serialised engine, and what the child says of it (see ``facts_of``).

    Raises:
        ArtifactError: the build failed, or the child died: the signal and its last lines are named.
        InputError, Unavailable, Unsupported: as ``build_engine``.
    """
    try:
        with tempfile.TemporaryDirectory(dir=str(scratch), prefix=".building-") as folder:
            return _run_in(Path(folder), onnx, options, engine_name, device)
    except OSError as error:
        raise InputError(
            f"{scratch}: cannot be written ({error.strerror}). Free space, or choose another folder with --out."
        ) from error


def work(job_file: Path) -> int:
    """The child: read the job, build, write the engine and what is known about it."""
    job = json.loads(job_file.read_text("utf-8"))
    try:
        result = _build_job(job)
    except BenchError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        result = {"error": "ArtifactError", "message": "the build ran out of memory"}
    write_atomic(Path(job["result"]), json.dumps(result))
    return 0


def facts_of(built: Built, host: HostKey) -> dict[str, Any]:
    """Everything about a build but the engine itself, as plain JSON values."""
    cache = built.timing_cache
    return {
        "host": host.identity(),
        "tensorrt": built.tensorrt,
        "seconds": built.seconds,
        "flags": list(built.flags),
        "creation_flags": list(built.creation_flags),
        "timing_cache": None if cache is None else {"state": cache.state, "file": cache.path.name},
        "io": [[t.name, t.mode, t.dtype, list(t.shape)] for t in built.io],
        "ranges": {r.name: [list(r.low), list(r.best), list(r.high)] for r in built.ranges},
        "layers": [layer_record(layer) for layer in built.layers],
        "trtexec": {"build": built.trtexec_build, "timing": built.trtexec_timing},
        "warnings": list(built.warnings),
        "notes": list(built.notes),
    }


def child_command() -> list[str]:
    """How to start this code again; in the stand-alone file it is the script itself."""
    if __package__:
        return [sys.executable, "-m", "bench.trt.target"]
    return [sys.executable, str(Path(__file__).resolve())]


def _run_in(
    folder: Path, onnx: Path, options: BuildOptions, engine_name: Path, device: int
) -> tuple[bytes, dict[str, Any]]:
    job, result, plan, log = (folder / name for name in ("job.json", "result.json", "plan", "log.txt"))
    job.write_text(
        json.dumps(
            {
                "onnx": str(onnx.absolute()),
                "options": options.to_job(),
                "engine_name": str(engine_name),
                "plan": str(plan),
                "result": str(result),
            }
        ),
        "utf-8",
    )
    with log.open("wb") as stream:
        done = subprocess.run(
            [*child_command(), "--worker", str(job)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(device),
            check=False,
        )
    if not result.is_file():
        raise ArtifactError(_death(done.returncode, log.read_text("utf-8", "replace")))
    facts = json.loads(result.read_text("utf-8"))
    if "error" in facts:
        raise _RAISABLE.get(facts["error"], ArtifactError)(facts["message"])
    if done.returncode != 0:  # TensorRT crashed on its way out, after the engine was complete
        facts["notes"].append(f"the building process ended with status {done.returncode} after the engine was written")
    return plan.read_bytes(), facts


def _build_job(job: dict[str, Any]) -> dict[str, Any]:
    try:
        import tensorrt
    except ImportError as error:
        raise Unavailable(f"the package tensorrt cannot be imported ({error}). Type: pip install tensorrt") from error
    host = read_host(str(tensorrt.__version__))
    built = build_engine(
        tensorrt, Path(job["onnx"]), from_job(job["options"]), host=host, engine_name=job["engine_name"]
    )
    try:
        Path(job["plan"]).write_bytes(built.plan)
    except OSError as error:
        raise InputError(f"{job['plan']}: cannot be written ({error.strerror}). Free space.") from error
    return facts_of(built, host)


def _environment(device: int) -> dict[str, str]:
    """The child sees one GPU: the chosen one of those that this process may see."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return {**os.environ, "CUDA_VISIBLE_DEVICES": str(device)}
    visible = [part.strip() for part in given.split(",") if part.strip()]
    if not 0 <= device < len(visible):
        raise Unavailable(f"no GPU {device}: CUDA_VISIBLE_DEVICES={given} leaves {len(visible)}, counted from 0")
    return {**os.environ, "CUDA_VISIBLE_DEVICES": visible[device]}


def _death(status: int, output: str) -> str:
    if status < 0:
        try:
            how = f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            how = f"was ended by signal {-status}"
    else:
        how = f"ended with status {status}"
    last = output.strip()[-_TAIL:] or "no output"
    hint = {-11: " TensorRT does this when CUDA does not work.", -9: " The system may have run out of memory."}
    return f"the process that builds with TensorRT {how}.{hint.get(status, '')} Its last words: {last}"
