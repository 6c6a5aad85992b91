"""A run, or a comparison of two, as JUnit XML for a CI system: a test case per cell and check.

Failed is a failure, error an error, skipped and unsupported are skipped with their reason. Undecided is skipped with a
message that begins with ``undecided:`` (JUnit knows no third outcome), or a failure when asked to be strict. What was
not judged has no case that passes. The form is what the common schemas (Windyroad's and Jenkins' ``junit-10.xsd``)
agree on: ``properties`` first, every attribute they require, at most one outcome per case.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Xml

from bench.report import numbers
from bench.report.cells import read_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.report.cells import CellView

_CHECKS = {
    "parity": ("attestation", "parity"),
    "accuracy": ("accuracy", "pose", "min-ap", "baseline-accuracy"),
    "speed": ("timing", "max-latency", "baseline-speed"),
}
_RANK = {"failed": 0, "error": 0, "undecided": 1}
_OF_VERDICT = {"failed": "failed", "slower": "failed", "undecided": "undecided"}
_FIRST_LINE = 300
"""Characters of a reason that are shown as its message; the whole reason is the text below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    group: str
    """``parity``, ``accuracy``, ``speed``, ``run``, or the name of a check that is none of theirs."""
    cell: str
    outcome: str = "passed"
    """``passed``, ``failed``, ``error``, ``undecided`` or ``skipped``."""
    check: str = ""
    reason: str = ""
    time_s: float = 0.0
    facts: str = ""


def junit_of_suite(suite: Mapping[str, Any], *, strict_undecided: bool = False) -> str:
    """Write a run as JUnit XML.

    Args:
        suite: valid under ``schemas/suite_result.json``.
        strict_undecided: undecided is a failure.
    """
    cases = [case for cell in read_run(suite).cells for case in _cases_of(cell)]
    facts = {"command": suite["command"], "run_id": suite["run_id"], "commit": (suite["git"] or {}).get("commit")}
    return _document(
        "parity", cases, facts, host=suite["host"]["name"], started=suite["started_at"], strict=strict_undecided
    )


def junit_of_comparison(document: Mapping[str, Any], *, strict_undecided: bool = False) -> str:
    """Write a comparison as JUnit XML: one test case per cell and compared quantity, one for a cell that has none.

    Args:
        document: valid under ``schemas/compare_result.json``.
        strict_undecided: undecided is a failure.
    """
    cases = [case for cell in document["cells"] for case in _compared(cell)]
    base, cand = document["base"], document["cand"]
    facts = {"base": base["run_id"], "candidate": cand["run_id"], "commit": cand["commit"]}
    facts |= {f"note.{i}": f"{n['kind']}: {n['text']}" for i, n in enumerate(document["notes"], 1)}
    return _document(
        "parity compare", cases, facts, host=cand["host"], started=cand["finished_at"], strict=strict_undecided
    )


def _cases_of(cell: CellView) -> Iterator[_Case]:
    """One case per check of a cell that ran; a single case ``run`` for one that did not, broke or is waived."""
    raw = cell.raw
    time_s = float(raw["duration_s"] or 0.0)
    if raw["status"] in ("skipped", "unsupported", "error", "waived"):
        outcome = "error" if raw["status"] == "error" else "skipped"
        reason = f"{raw['status']}: {raw['reason'] or 'no reason was recorded'}"
        yield _Case(group="run", cell=cell.id, outcome=outcome, check=raw["status"], reason=reason, time_s=time_s)
        return
    findings = list(raw.get("findings", []))
    if raw["status"] in ("failed", "undecided") and not findings:  # blocked by the plan, or written by an older version
        findings = [{"check": "run", "status": raw["status"], "reason": raw["reason"] or "no reason was recorded"}]
    groups: dict[str, list[Mapping[str, Any]]] = {name: [] for name in _judged(raw)}
    group_of = {check: name for name, checks in _CHECKS.items() for check in checks}
    for finding in findings:
        groups.setdefault(group_of.get(finding["check"], finding["check"]), []).append(finding)
    if not groups:
        groups["run"] = []
    for number, (name, found) in enumerate(groups.items()):
        yield _of_findings(name, cell.id, found, time_s if number == 0 else 0.0, _facts(name, cell))


def _judged(raw: Mapping[str, Any]) -> Iterator[str]:
    """The groups in which something was measured that could have failed."""
    if any(row["passed"] is not None for row in raw["parity"]):
        yield "parity"
    if raw["accuracy"] is not None and raw["accuracy"]["verdict"] not in ("reference", "not judged"):
        yield "accuracy"
    if raw["speed"] is not None and raw["speed"]["verdict"] not in ("reference", "emulated"):
        yield "speed"


def _of_findings(group: str, cell: str, found: Sequence[Mapping[str, Any]], time_s: float, facts: str) -> _Case:
    if not found:
        return _Case(group=group, cell=cell, time_s=time_s, facts=facts)
    worst = min(found, key=lambda f: _RANK.get(f["status"], 2))
    outcome = worst["status"] if worst["status"] in _RANK else "skipped"
    reason = " ".join(f["reason"] for f in found)
    return _Case(
        group=group, cell=cell, outcome=outcome, check=worst["check"], reason=reason, time_s=time_s, facts=facts
    )


def _facts(group: str, cell: CellView) -> str:
    """What was measured, for the case's output."""
    if group == "accuracy" and cell.ap is not None:
        ends = f" {numbers.interval(cell.delta_ci95, 4, sign=True)}" if cell.delta_ci95 else ""
        return f"AP {numbers.fixed(cell.ap, 4)}" + (f", ΔAP {numbers.delta(cell.delta)}{ends}" if cell.delta else "")
    if group == "speed" and cell.p50_ms is not None:
        ratio = f", {numbers.ratio(cell.ratio)}" if cell.ratio is not None else ""
        return f"p50 {numbers.three_digits(cell.p50_ms)} ms{ratio}"
    return ""


def _compared(cell: Mapping[str, Any]) -> Iterator[_Case]:
    """Accuracy and speed to the base; what is not theirs (lost, failed in its own run) is the case ``run``."""
    outcomes = set()
    for name in ("accuracy", "speed"):
        part = cell[name]
        if part is not None:
            gain = "failed" if cell["status"] == "failed" else "undecided"
            outcome = gain if part["verdict"] == "suspicious" else _OF_VERDICT.get(part["verdict"], "passed")
            outcomes.add(outcome)
            reason = part["reason"] or ""
            yield _Case(group=name, cell=cell["id"], outcome=outcome, check=part["verdict"], reason=reason)
    status = cell["status"]
    if status in outcomes and cell["cand_status"] not in ("failed", "error"):
        return
    outcome = "skipped" if status in ("skipped", "unsupported", "waived") else status
    reason = "" if status == "passed" else cell["reason"] or "no reason was recorded"
    yield _Case(group="run", cell=cell["id"], outcome=outcome, check=cell["change"], reason=reason)


def _document(
    name: str, cases: Sequence[_Case], facts: Mapping[str, Any], *, host: str, started: str, strict: bool
) -> str:
    outcomes = ["failed" if strict and c.outcome == "undecided" else c.outcome for c in cases]
    counts = {
        "tests": str(len(cases)),
        "failures": str(outcomes.count("failed")),
        "errors": str(outcomes.count("error")),
        "skipped": str(outcomes.count("skipped") + outcomes.count("undecided")),
        "time": f"{sum(c.time_s for c in cases):.3f}",
    }
    root = Xml.Element("testsuites", {"name": name, **counts})
    suite = Xml.SubElement(
        root,
        "testsuite",
        {
            "name": name,
            "package": "backend-parity",
            "id": "0",
            **counts,
            "timestamp": _timestamp(started),
            "hostname": _legal(host) or "unknown",
        },
    )
    properties = Xml.SubElement(suite, "properties")
    for key, value in facts.items():
        Xml.SubElement(properties, "property", {"name": key, "value": _legal(str(value))})
    for case, outcome in zip(cases, outcomes, strict=True):
        suite.append(_element(case, outcome))
    Xml.SubElement(suite, "system-out")
    Xml.SubElement(suite, "system-err")
    Xml.indent(root)
    text: str = Xml.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _element(case: _Case, outcome: str) -> Xml.Element:
    element = Xml.Element(
        "testcase",
        {"name": _legal(case.cell), "classname": _legal(f"parity.{case.group}"), "time": f"{case.time_s:.3f}"},
    )
    reason = _legal(case.reason)
    message = reason if len(reason) <= _FIRST_LINE else reason[: _FIRST_LINE - 1] + numbers.ELLIPSIS
    if outcome in ("failed", "error"):
        tag = "failure" if outcome == "failed" else "error"
        child = Xml.SubElement(element, tag, {"message": message or outcome, "type": _legal(case.check or outcome)})
        child.text = reason
    elif outcome in ("skipped", "undecided"):
        mark = "undecided: " if outcome == "undecided" else ""
        Xml.SubElement(element, "skipped", {"message": f"{mark}{message or 'no reason was recorded'}"})
    if case.facts:
        Xml.SubElement(element, "system-out").text = _legal(case.facts)
    return element


def _timestamp(iso: str) -> str:
    """UTC without zone or fraction, the one form that the schemas take; the epoch when the text is no stamp."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        moment = datetime.fromtimestamp(0, UTC)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def _legal(text: str) -> str:
    """Replace what XML 1.0 cannot hold, escaped or not: control characters, lone surrogates, U+FFFE and U+FFFF."""
    return "".join(c if _is_legal(ord(c)) else "\N{REPLACEMENT CHARACTER}" for c in text)


def _is_legal(code: int) -> bool:
    return code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000
