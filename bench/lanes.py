"""Lanes: child processes that own one cell's runtime, and what happens when one of them dies.

The parent talks to a lane over a socket pair with pickled ``(command, arguments)`` and reads ``(kind, payload)``
messages until a result arrives. It watches three things meanwhile: the process, the silence, the memory.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench import errors
from bench.errors import LaneError, Unavailable
from bench.results import Failure

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_POLL_S = 0.5
_STDERR_TAIL = 1500


def missing_lanes() -> str | None:
    """Why this system cannot run lanes, with what works without them; None where it can."""
    if hasattr(os, "pidfd_open"):  # a descriptor handed to a child and a process watched by descriptor: Linux alone
        return None
    return (
        f"backends run in processes that need Linux, and this is {platform.system()} with Python "
        f"{platform.python_version()}. Run them there; parity score, compare, report, validate and "
        "scenarios --adapter precomputed work here on their files"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a lane may use."""

    silence_s: float = 300.0
    """A lane that neither finishes nor reports progress for this long is taken to hang."""
    memory_gb: float | None = None
    """Resident memory; None: nine tenths of what is free when the lane starts."""


class LaneFailure(LaneError):  # noqa: N818 - it carries a Failure
    """A lane ended without an answer; ``failure`` says at which stage and how."""

    def __init__(self, message: str, failure: Failure, short: str) -> None:
        super().__init__(message)
        self.failure = failure
        self.short = short


class Lane:
    """One child process. Commands are methods of ``bench.worker``; see there for their arguments.

    Raises:
        Unavailable: this system cannot run lanes.
    """

    def __init__(self, *, name: str, log: Path, limits: Limits | None = None) -> None:
        self.name = name
        self.log = log
        self.limits = limits or Limits()
        missing = missing_lanes()
        if missing is not None:
            raise Unavailable(missing)
        self._memory_bytes = int((self.limits.memory_gb or 0) * 2**30) or int(psutil.virtual_memory().available * 0.9)
        log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with log.open("ab") as stream:
            # A session of its own: Ctrl-C reaches the parent only, which then ends its lanes.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        theirs.close()
        self._connection: Connection = Connection(ours.detach())
        self._started = time.monotonic()
        self.peak_rss_mb = 0.0

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def call(self, command: str, *, progress: Callable[[int, int], None] | None = None, **arguments: Any) -> Any:
        """Send a command and wait for its result.

        Raises:
            LaneFailure: the child crashed, hung or outgrew its memory.
            BenchError: the command failed inside the child; the same type and message.
        """
        try:
            self._connection.send((command, arguments))
        except OSError:
            raise self._died(command) from None
        quiet_since = time.monotonic()
        while True:
            ready = wait([self._connection, self._process_sentinel()], timeout=_POLL_S)
            if self._connection in ready:
                try:
                    kind, payload = self._connection.recv()
                except (EOFError, OSError):
                    raise self._died(command) from None
                quiet_since = time.monotonic()
                if kind == "result":
                    return payload
                if kind == "progress":
                    if progress is not None:
                        progress(*payload)
                    continue
                raise _rebuild(kind, payload)
            if ready and self._process.poll() is not None:
                raise self._died(command)
            self._watch(command, quiet_since)

    def _process_sentinel(self) -> int:
        """A file descriptor that becomes readable when the child ends."""
        if not hasattr(self, "_pidfd"):
            self._pidfd = os.pidfd_open(self._process.pid)
        return self._pidfd

    def _watch(self, command: str, quiet_since: float) -> None:
        rss = self.rss_bytes()
        self.peak_rss_mb = max(self.peak_rss_mb, rss / 2**20)
        if rss > self._memory_bytes:
            self.kill()
            limit = f"{self._memory_bytes / 2**30:.1f} GB"
            raise self._failure(
                command,
                f"Ran out of memory in {command}: {rss / 2**30:.1f} GB resident, limit {limit} (--lane-memory GB).",
                None,
                "out of memory",
            )
        if time.monotonic() - quiet_since > self.limits.silence_s:
            self.kill()
            raise self._failure(
                command,
                f"Hung in {command}: no answer for {self.limits.silence_s:g} s (--lane-timeout S); killed.",
                None,
                "hang",
            )

    def rss_bytes(self) -> int:
        """Resident memory of the child now, 0 when it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def _died(self, stage: str) -> LaneFailure:
        code = self._process.wait(timeout=30)
        if code < 0:
            number = signal.Signals(-code)
            text = f"{number.name} (signal {number.value})"
            hint = " The kernel sends SIGKILL when memory runs out." if number is signal.SIGKILL else ""
            return self._failure(
                stage, f"Killed by {text} in {stage}, {self._age():.1f} s after start.{hint}", text, number.name
            )
        return self._failure(
            stage,
            f"Ended with exit status {code} in {stage}, {self._age():.1f} s after start.",
            None,
            f"exit status {code}",
        )

    def _failure(self, stage: str, message: str, name: str | None, short: str) -> LaneFailure:
        failure = Failure(stage=stage, signal=name, after_s=round(self._age(), 2), stderr_tail=self.stderr_tail())
        return LaneFailure(f"{message} Log: {self.log.name}.", failure, short)

    def _age(self) -> float:
        return time.monotonic() - self._started

    def stderr_tail(self) -> str:
        """Last characters of the lane's log."""
        with suppress(OSError), self.log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(stream.tell() - _STDERR_TAIL, 0))
            return stream.read().decode("utf-8", "replace").strip()
        return ""

    def close(self) -> None:
        """Ask the child to end, then make sure; a second call does nothing."""
        if self._process.poll() is None:
            with suppress(OSError, EOFError, errors.BenchError):
                self.call("close")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        self.kill()

    def kill(self) -> None:
        """End the child and everything that it started."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=30)
        self._connection.close()
        if hasattr(self, "_pidfd"):
            os.close(self._pidfd)
            del self._pidfd

    def __enter__(self) -> Lane:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()


def _rebuild(kind: str, message: str) -> errors.BenchError:
    """Turn a failure reported by the child into the same exception here; foreign ones become LaneError."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, errors.BenchError):
        return found(message)
    return LaneError(f"{kind}: {message}")
