"""One pytest run: options to a request, one interleaved run for all selected cells, results to outcomes."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.errors import BenchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.across.baselines import Side
    from bench.matrix import ModelPlan, Request
    from bench.running import Outcome
    from bench.types import Cell

_PREFIX = "parity_"


class Undecided(pytest.skip.Exception):  # type: ignore[name-defined,misc]
    """Ends a test whose cell is undecided; the report is then shown as its own outcome."""


class ParitySession:
    """Plans once, runs once, answers every test."""

    def __init__(self, values: dict[str, Any], *, strict_undecided: bool, run_uid: str | None) -> None:
        self._values = values
        self.strict_undecided = strict_undecided
        self._run_uid = run_uid
        """Set in an xdist worker: the same in all workers of a run."""
        self._request: Request | None = None
        self._plans: list[ModelPlan] | None = None
        self._selected: set[str] | None = None
        self._outcome: Outcome | None = None
        self._failure: BenchError | None = None
        self._base: Side | None = None

    @classmethod
    def from_config(cls, config: pytest.Config) -> ParitySession:
        """Read the options; a wrong one is pytest's own usage error (exit code 4)."""
        from bench.options import HELP, read_config

        try:
            values = read_config(Path(config.option.parity_config)) if config.option.parity_config else {}
            for name in HELP:
                given = getattr(config.option, _PREFIX + name, None)
                if given is not None:
                    values[name] = given
            session = cls(
                values,
                strict_undecided=config.option.strict_undecided,
                run_uid=getattr(config, "workerinput", {}).get("testrunuid"),
            )
            if values:
                session.request()  # unknown names are said before collection
                session.baseline()
        except BenchError as error:
            raise pytest.UsageError(str(error)) from error
        return session

    def request(self) -> Request:
        """The options as a request."""
        from bench.options import make_request

        if self._request is None:
            words = os.environ.get("PYTEST_ADDOPTS", "")
            self._request = make_request(self._values, command=f"pytest {' '.join(_argv())} {words}".strip())
        return self._request

    def baseline(self) -> Side | None:
        """The stored baseline, opened once; one that cannot be used is said before anything is measured."""
        from bench.across.gating import load_baseline

        path = self.request().baseline
        if path is not None and self._base is None:
            self._base = load_baseline(path)
        return self._base

    def plans(self) -> list[ModelPlan]:
        """Plans of all models; made once."""
        from bench.planning import make_plans
        from bench.registry import backend_reference

        if self._plans is None:
            request = self.request()
            for name in request.backends:
                backend_reference(name)
            with tempfile.TemporaryDirectory() as logs:
                self._plans = make_plans(request, logs=Path(logs))
        return self._plans

    def cells(self) -> list[Cell]:
        """Every planned cell that was asked for, the reference included."""
        try:
            return [c.cell for p in self.plans() for c in p.cells]
        except BenchError as error:
            raise pytest.UsageError(str(error)) from error

    def select(self, items: Sequence[pytest.Item]) -> None:
        """Keep the cells of the collected tests; the references run in any case."""
        cells = [i.callspec.params["cell"] for i in items if hasattr(i, "callspec") and "cell" in i.callspec.params]
        self._selected = {c.id for c in cells}

    def result_of(self, cell: Cell) -> dict[str, Any]:
        """The JSON form of a cell's result; the first call runs everything that was selected."""
        if self._outcome is None and self._failure is None:
            self._run()
        if self._failure is not None:
            pytest.fail(f"the run could not be made: {self._failure}", pytrace=False)
        if self._outcome is None:
            raise UsageError("no outcome")
        return next(c for c in self._outcome.suite["cells"] if _id_of(c) == cell.id)

    def _run(self) -> None:
        try:
            self._outcome = self._shared_run() if self._run_uid else self._own_run(self.request())
        except BenchError as error:
            self._failure = error

    def _own_run(self, request: Request) -> Outcome:
        from bench.engine import open_folder
        from bench.running import conclude

        plans = [self._narrow(p) for p in self.plans()]
        chosen = [p for p in plans if p is not None]
        outcome = conclude(chosen, request, open_folder(request.out), base=self.baseline())
        if outcome.suite["interrupted"]:  # the run saved what was finished; pytest must stop as well, and not be green
            raise KeyboardInterrupt
        return outcome

    def _shared_run(self) -> Outcome:
        """Under xdist the first worker runs all cells, without timing; the others read its result."""
        from filelock import FileLock

        from bench.running import Outcome
        from bench.schema import read_suite

        note = Path(tempfile.gettempdir()) / f"parity-{self._run_uid}"
        with FileLock(f"{note}.lock"):
            if not note.is_file():
                outcome = self._own_run(replace(self.request(), rounds=0, max_rounds=0))
                note.write_text(str(outcome.folder.resolve()), "utf-8")
                return outcome
        folder = Path(note.read_text("utf-8"))
        return Outcome(suite=read_suite(folder / "suite.json"), folder=folder, page=folder / "index.html")

    def _narrow(self, plan: ModelPlan) -> ModelPlan | None:
        if self._selected is None:
            return plan
        kept = tuple(c for c in plan.cells if c.role == "reference" or c.cell.id in self._selected)
        if not any(c.cell.id in self._selected for c in kept):
            return None
        return replace(plan, cells=kept)

    def mark_report(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Carry "undecided" on the report, also from an xdist worker."""
        if report.when == "call" and getattr(item, "parity_undecided", False):
            report.parity_undecided = True  # type: ignore[attr-defined]

    def summarise(self, reporter: Any) -> None:
        """Print the table, the reasons of undecided tests and the page."""
        for report in reporter.stats.get("undecided", []):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            reporter.write_line(f"UNDECIDED {report.nodeid} - {reason.partition('undecided: ')[2] or reason}")
        if self._outcome is None:
            return
        import io

        from rich.console import Console

        from bench.report.compared import print_changes
        from bench.report.terminal import print_table

        text = io.StringIO()
        paper = Console(file=text, width=100)
        if self._outcome.comparison is not None:
            print_changes(self._outcome.comparison, paper)
        print_table(self._outcome.suite, paper, report_path=str(self._outcome.page))
        reporter.write_line("")
        reporter.write(text.getvalue())


_GUARDS = {
    "parity": ("attestation", "parity"),
    "accuracy": ("accuracy", "pose", "min-ap", "baseline-accuracy"),
    "speed": ("timing", "max-latency", "baseline-speed"),
}


def judge(request: pytest.FixtureRequest, result: dict[str, Any], check: str) -> None:
    """Turn a cell's findings into this test's outcome; a test fails only for what it guards.

    Args:
        request: of the test.
        result: the cell's JSON form.
        check: ``parity``, ``accuracy`` or ``speed``.
    """
    __tracebackhide__ = True
    status, reason = result["status"], result["reason"] or ""
    ran = result["accuracy"] is not None or bool(result["parity"])
    if status == "error" or (status == "failed" and not ran):
        pytest.fail(f"{status}: {reason}", pytrace=False)
    if not ran:
        pytest.skip(f"{status}: {reason}")
    if status == "waived":
        return
    own = [f for f in result["findings"] if f["check"] in _GUARDS[check]]
    failed = [f["reason"] for f in own if f["status"] == "failed"]
    if failed:
        pytest.fail(" ".join(failed), pytrace=False)
    if own:
        words = "undecided: " + " ".join(f["reason"] for f in own)
        if request.config.option.strict_undecided:
            pytest.fail(words, pytrace=False)
        request.node.parity_undecided = True
        raise Undecided(words)


class ReplayClock:
    """A timer for pytest-benchmark that reads the samples of a finished run instead of the time."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._left: list[float] = []

    def __call__(self) -> float:
        """Seconds."""
        return self._now_s

    def load(self, samples_ms: Sequence[float]) -> None:
        """Queue samples."""
        self._now_s = 0.0
        self._left = [s / 1000.0 for s in reversed(samples_ms)]

    def advance(self) -> None:
        """Let one sample pass."""
        if self._left:
            self._now_s += self._left.pop()


def replay(request: pytest.FixtureRequest, result: dict[str, Any], benchmark: Any, clock: ReplayClock) -> None:
    """Judge the speed findings, then hand the measured samples to pytest-benchmark."""
    __tracebackhide__ = True
    try:
        judge(request, result, "speed")
        speed = result["speed"]
        if speed is None:
            pytest.skip("not timed: " + (result["reason"] or "this backend has no speed, or no rounds were asked for"))
        if speed["verdict"] == "emulated":
            pytest.skip("emulated: its latency is not this precision's speed")
        wrong = [f["check"] for f in result["findings"] if f["status"] == "failed"]
        if wrong:
            pytest.skip(f"not reported: its {wrong[0]} failed, and the speed of wrong answers is no speed")
    except pytest.fail.Exception as error:
        # Through the fixture, so that pytest-benchmark knows why it has no samples instead of warning about it.
        benchmark.has_error = True
        benchmark.pedantic(_raise, args=(error,))
    samples_ms = [s for r in speed["rounds"] for s in r["samples_ms"]]
    benchmark.extra_info.update(
        {
            "parity": result["status"],
            "ratio": speed["ratio"],
            "p50_ms": speed["latency_ms"]["p50"],
            "artifact_sha256": result["artifact"]["sha256"] if result["artifact"] else None,
        }
    )
    clock.load(samples_ms)
    benchmark.pedantic(clock.advance, rounds=len(samples_ms))


def _raise(error: BaseException) -> None:
    raise error


def _id_of(result: dict[str, Any]) -> str:
    from bench.types import Cell

    return Cell(**{k: result["cell"][k] for k in ("model", "backend", "device", "precision", "fixtures", "batch")}).id


def _argv() -> list[str]:
    import sys

    return sys.argv[1:]
