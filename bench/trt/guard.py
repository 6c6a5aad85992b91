"""The first call into TensorRT happens in a child process: without a working CUDA it ends the process it is made in.

Measured with the 11.4 lean runtime on a host without a GPU: ``Runtime(logger)`` logs "CUDA initialization failure with
error: 35", returns an object, and the process dies with SIGSEGV at the next call or when the object ends. No ``except``
catches that; the status of a child does.

    python -m bench.trt.guard        # what the child does: one line of JSON
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from bench.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 120.0
"""Loading the libraries (2 GB on disk) takes seconds from a cold disk; a driver that hangs, hangs for ever."""
_CHILD = (sys.executable, "-m", "bench.trt.guard")
_TAIL = 600
_REMEDY = "Type: parity doctor, and check the driver with nvidia-smi"


def first_call(command: Sequence[str] = _CHILD, *, timeout_s: float = TIMEOUT_S) -> str:
    """Call TensorRT for the first time, in a child; return its version. Asked once per process, failures too.

    Args:
        command: the child, as a tuple.
        timeout_s: seconds to wait for it.

    Raises:
        Unavailable: the library crashed, hung, cannot be imported or makes no runtime; says which.
    """
    version, reason = _outcome(tuple(command), timeout_s)
    if version is None:
        raise Unavailable(reason)
    return version


@functools.cache
def _outcome(command: tuple[str, ...], timeout_s: float) -> tuple[str | None, str]:
    """Version, or None and the reason: a library that hangs is waited for once, not once per precision."""
    try:
        return _ask(command, timeout_s), ""
    except Unavailable as error:
        return None, str(error)


def _ask(command: tuple[str, ...], timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"trt: the library did not answer its first call within {timeout_s:g} s (in a child process). {_REMEDY}"
        ) from error
    except OSError as error:
        raise Unavailable(f"trt: the child process for the first call cannot be started ({error.strerror})") from error
    last = f"{done.stdout}{done.stderr}".strip()[-_TAIL:] or "nothing"  # TensorRT's own logger writes to stdout
    if done.returncode < 0:
        raise Unavailable(
            f"trt: the library crashed ({_signal(-done.returncode)}) at its first call, in a child process. TensorRT "
            f"does this when CUDA does not work. It said: {last}. {_REMEDY}"
        )
    answer = _answer(done.stdout)
    if done.returncode != 0 or answer is None:
        raise Unavailable(
            f"trt: the first call, in a child process, ended with status {done.returncode}. It said: {last}"
        )
    if "problem" in answer:
        raise Unavailable(f"trt: {answer['problem']}. It said: {last}")
    return str(answer["version"])


def make_runtime(trt: Any) -> dict[str, str]:
    """Create and destroy a runtime: ``{"version": ...}`` or ``{"problem": ...}``.

    The runtime ends with this function, which is where a library without CUDA crashes: before there is an answer.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    try:
        runtime = trt.Runtime(logger)
    except TypeError as error:  # the bindings' word for a factory that returned nothing
        return {"problem": f"TensorRT {trt.__version__} makes no runtime ({error})"}
    if runtime is None:
        return {"problem": f"TensorRT {trt.__version__} makes no runtime"}
    return {"version": str(trt.__version__)}


def main() -> int:
    """The child."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        answer = {"problem": f"the package tensorrt is installed but cannot be loaded: {error}"}
    else:
        answer = make_runtime(tensorrt)
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _answer(text: str) -> dict[str, str] | None:
    """The last line that is JSON: libraries print too."""
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and ("version" in found or "problem" in found):
            return found
    return None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":
    sys.exit(main())
