"""The run as one comment on a pull request: the answer and what changed, the rest folded. Pure.

GitHub shows at most 65,536 characters of a comment; what does not fit is left out from the end, with a line that says
so. Everything from the files is escaped: it shows as it is, and mentions, links and tags in it do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report import answer, numbers
from bench.report.cells import read_run
from bench.report.mdtext import code, escape
from bench.report.noise import rounds_sentence
from bench.report.precision_text import lower_block, precision_blocks
from bench.report.provenance import reference_of
from bench.report.resolution import checks_of
from bench.report.tables import percentiles_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.report.cells import CellView, Group, Run

MARKER = "<!-- parity-report: one comment per pull request, updated in place -->"
MAX_CHARACTERS = 65_000
"""GitHub's limit is 65,536; the rest is for what an action adds."""
GLYPHS = {"passed": "✓", "failed": "✕", "error": "!", "undecided": "?", "waived": "⚑", "skipped": "–",
          "unsupported": "∅", "reference": "·"}  # fmt: skip
MAX_TEXT = 600
"""Characters of one reason."""
_DASH = "\N{EN DASH}"


def markdown_of(suite: Mapping[str, Any], comparison: Mapping[str, Any] | None = None) -> str:
    """Write the comment.

    Args:
        suite: a mapping that is valid under ``schemas/suite_result.json``.
        comparison: a mapping that is valid under ``schemas/compare_result.json``, of this run against its base.

    Returns:
        At most ``MAX_CHARACTERS`` characters that end in a line break. The first line is ``MARKER``: whoever posts
        the comment finds the one to replace by it.
    """
    run = read_run(suite)
    heads = [MARKER, f"### Parity: {_lower_first(answer.headline(run)).rstrip('.')}", "", *_tally(run)]
    blocks = [_fastest(run), _attention(run), lower_block(run)]
    if comparison is not None:
        blocks.append(_changed(run, comparison))
    cells = [_cell_table(group, run) for group in run.groups]
    cells += precision_blocks(run)
    how = _how(run)
    return _fitted(heads, blocks, cells, how, len(run.cells))


def _tally(run: Run) -> list[str]:
    suite = run.suite
    counts = answer.tally(run)
    loud = ", ".join(str(c) for c in counts if c.loud)
    quiet = ", ".join(str(c) for c in counts if not c.loud)
    counted = f"**{loud}{',' if quiet else '.'}** " if loud else ""
    counted += f"{quiet}. " if quiet else ""
    git, host = suite["git"], suite["host"]
    commit = f"Commit {code(git['commit'][:7])}{', changed tree' if git['dirty'] else ''}" if git else "No repository"
    lines = [
        f"{counted}{commit}, host {escape(str(host['name']))}, {escape(numbers.stamp(suite['finished_at']))}, "
        f"exit {suite['exit_code']}."
    ]
    if suite.get("aborted"):
        lines += ["", f"**The run ended early:** {escape(str(suite['aborted']))} Finished cells are shown."]
    if suite["interrupted"]:
        lines += ["", "**The run was interrupted;** finished cells are shown."]
    wrong = [check.text for check in checks_of(run) if not check.agrees]
    lines += [line for text in wrong for line in ("", f"**{escape(text)}** No AP of this run can be trusted.")]
    return lines


def _fastest(run: Run) -> list[str]:
    found = [answer.best(group) for group in run.groups if group.candidates]
    if not found:
        return []
    lines = [
        f"| Model | Fastest that is still the same | Speed, {numbers.TIMES} {escape(run.reference_label)} "
        f"| ΔAP{' [95 %]' if run.has_intervals else ''} |",
        "|---|---|--:|--:|",
    ]
    for best in found:
        where = escape(f"{best.group.model} on {best.group.fixtures}")
        if best.cell is None:
            lines.append(f"| {where} | none is both the same and faster | | |")
            continue
        delta = "" if best.cell.delta is None else numbers.delta_short(best.cell.delta)
        if best.cell.delta_ci95:
            delta += f" {numbers.interval(best.cell.delta_ci95, 3, sign=True)}"
        lines.append(f"| {where} | {escape(best.cell.label)} | {_speed(best.cell, word=False)} | {delta} |")
    return lines


def _attention(run: Run) -> list[str]:
    items = answer.needs_person(run)
    if not items:
        return []
    lines = ["**Needs a person**", "", "| Verdict | Cell | Why |", "|---|---|---|"]
    for item in items:
        names = ", ".join(escape(run.name(cell)) for cell in item.cells)
        lines.append(f"| {_verdict(item.status)} | {names} | {_short(item.sentence)} |")
    return lines


def _changed(run: Run, comparison: Mapping[str, Any]) -> list[str]:
    """Cells whose verdict changed, or that are worse than the base; the others are counted."""
    base = comparison["base"]
    commit = f"commit** {code(str(base['commit'])[:7])}" if base.get("commit") else f"run** {code(base['run_id'])}"
    cells = comparison["cells"]
    changed = [cell for cell in cells if _is_change(cell)]
    lines = [f"**Changed since the base {commit}", ""]
    if changed:
        lines += ["| Cell | Verdict | ΔAP to base [95 %] | Speed to base [95 %] |", "|---|---|--:|--:|"]
        names = {cell.id: run.name(cell) for cell in run.cells}
        for cell in changed:
            name = escape(names.get(cell["id"], cell["id"]))
            before, after = cell["base_status"], cell["cand_status"]
            verdict = (
                _verdict(after) + ", worse than the base" if before == after and before
                else f"{_verdict(before) if before else 'not there'} → {_verdict(after) if after else 'not there'}"
            )  # fmt: skip
            lines.append(f"| {name} | {verdict} | {_accuracy_change(cell)} | {_speed_change(cell)} |")
        lines.append("")
    same = len(cells) - len(changed)
    others = "other " if changed else ""
    if same:
        has = "has" if same == 1 else "have"
        lines.append(f"The {others}{numbers.plural(same, 'cell')} {has} the same verdict as before.")
        unknown = sum(not _is_change(cell) and cell["status"] == "undecided" for cell in cells)
        if unknown:
            whether = "it is" if unknown == 1 else "they are"
            lines[-1] += f" Of {unknown} of them it is not decided whether {whether} worse than the base."
    elif not cells:
        lines.append("The two runs have no cell in common.")
    notes = [escape(str(note["text"])) for note in comparison["notes"]]
    if notes:
        lines += ["", "<details><summary>What differs between the two runs</summary>", ""]
        lines += [f"* {note}" for note in notes]
        lines += ["", "</details>"]
    return lines


def _is_change(cell: Mapping[str, Any]) -> bool:
    """Above the fold: a changed verdict, and a cell that is worse than the base with the same verdict."""
    return bool(cell["base_status"] != cell["cand_status"] or cell["status"] == "failed")


def _accuracy_change(cell: Mapping[str, Any]) -> str:
    accuracy = cell["accuracy"]
    if not accuracy or accuracy["delta"] is None:
        return _DASH
    text = numbers.delta(float(accuracy["delta"]))
    if accuracy["ci95"]:
        text += f" {numbers.interval(accuracy['ci95'], 4, sign=True)}"
    return f"{text}, {accuracy['verdict']}" if accuracy["verdict"] in ("suspicious", "undecided") else text


def _speed_change(cell: Mapping[str, Any]) -> str:
    speed = cell["speed"]
    if not speed or speed["change"] is None:
        return _DASH
    text = numbers.fixed(float(speed["change"]), 2)
    if speed["ci95"]:
        text += f" {numbers.interval(speed['ci95'], 2, sign=False)}"
    return f"{text}, {escape(speed['verdict'])}"


def _cell_table(group: Group, run: Run) -> list[str]:
    images = "" if group.images is None else f", {numbers.plural(group.images, 'image')}"
    ap = group.reference.ap if group.reference else None
    reference = "" if ap is None else f", reference AP {numbers.fixed(ap, 4)}"
    delta = "ΔAP [95 %]" if run.has_intervals else f"ΔAP, {run.no_interval}"
    speed = f"{numbers.TIMES} {escape(group.reference_label)}{' [95 %]' if run.has_ratio_intervals else ''}"
    found = percentiles_of(run)
    percentiles = found if len(found) < 3 else (found[0], found[-1])
    lines = [
        f"**{escape(group.model)} on {escape(group.fixtures)}**{images}{reference}",
        "",
        f"| Cell | Verdict | {delta} | {speed} |{''.join(f' {name} ms |' for name in percentiles)} Asked → ran |",
        f"|---|---|--:|--:|{'--:|' * len(percentiles)}---|",
    ]
    for cell in group.cells:
        mismatch = cell.observed is not None and cell.observed != cell.precision and not cell.emulated
        ran = f"{cell.precision} → {escape(cell.observed or 'none')}{' ✕' if mismatch else ''}"
        ran += ", emulated" if cell.emulated else ""
        head = f"| {escape(cell.label)} | {_verdict(cell.word)} |"
        if cell.ran:
            latency = {} if cell.emulated else (cell.raw["speed"] or {}).get("latency_ms", {})
            times = "".join(f" {_ms(latency.get(name))} |" for name in percentiles)
            lines.append(f"{head} {_delta(cell)} | {_speed(cell)} |{times} {ran} |")
        else:
            why = _short(cell.raw["reason_short"] or cell.reason or "", 60)
            lines.append(f"{head} {why} | |{' |' * len(percentiles)} {ran} |")
    return lines


def _how(run: Run) -> list[str]:
    """How the numbers came about, and how to get them again."""
    loss = ", ".join(f"{name} {text}" for name, text in answer.allowed_loss(run))
    protocol = run.suite["protocol"]
    parts = [f"Allowed AP loss, of the reference: {loss}." if loss else "No allowed loss was judged."]
    parts += [f"{name.capitalize()}: {protocol[name]}." for name in ("intervals", "rounds") if name in protocol]
    for group in run.groups:
        sentence = rounds_sentence(group)
        if sentence:
            parts.append(f"Timing of {group.title}: {sentence}.")
    includes = sorted({cell.raw["speed"]["includes"] for cell in run.cells if cell.raw["speed"]})
    parts += [f"Latency is {text}." for text in includes]
    parts += [check.text for check in checks_of(run)]
    parts.append(f"Reference {reference_of(run)}. Run {run.suite['run_id']}.")
    return [" ".join(escape(part) for part in parts), "", f"Repeat: {code(str(run.suite['command']))}"]


def _fitted(
    heads: Sequence[str],
    blocks: Sequence[Sequence[str]],
    cells: Sequence[Sequence[str]],
    how: Sequence[str],
    count: int,
) -> str:
    """Everything, or as much as fits: folded tables go first, then rows above the fold from their end."""
    limit = f"a comment has at most {MAX_CHARACTERS:,} characters. All cells are in suite.json."

    def text(shown: Sequence[Sequence[str]], folded: Sequence[Sequence[str]], left_out: int, note: str) -> str:
        parts = ["\n".join(heads), *("\n".join(block) for block in shown if block)]
        if folded:
            inner = "\n\n".join("\n".join(table) for table in folded)
            parts.append(f"<details><summary>All {count} cells</summary>\n\n{inner}\n\n</details>")
        if left_out:
            parts.append(f"{numbers.plural(left_out, 'table')} of {len(cells)} left out: {limit}")
        if note:
            parts.append(note)
        if how:
            inner = "\n".join(how)
            parts.append(f"<details><summary>How this was measured</summary>\n\n{inner}\n\n</details>")
        return "\n\n".join(parts) + "\n"

    for kept in range(len(cells), -1, -1):
        whole = text(blocks, cells[:kept], len(cells) - kept, "")
        if len(whole) <= MAX_CHARACTERS:
            return whole
    how = ()
    rows = max(map(len, blocks), default=0)
    note = f"Rows are left out: {limit}"
    while rows > 4:
        rows -= max(rows // 10, 1)
        whole = text([block[:rows] for block in blocks], (), 0, note)
        if len(whole) <= MAX_CHARACTERS:
            return whole
    return f"{heads[0]}\n{_short(heads[1], 200)}\n\n{note}\n"


def _verdict(word: str) -> str:
    return f"{GLYPHS.get(word, '?')} {escape(word)}"


def _delta(cell: CellView) -> str:
    if cell.role == "reference":
        return "reference"
    if cell.delta is None:
        return _DASH
    text = numbers.delta(cell.delta)
    if cell.delta_ci95:
        text += f" {numbers.interval(cell.delta_ci95, 4, sign=True)}"
    return f"{text}, suspicious gain" if cell.suspicious else text


def _speed(cell: CellView, *, word: bool = True) -> str:
    """``0.91 [0.89, 0.93], slower``; "faster" is what one expects and is not said."""
    if cell.role == "reference":
        return "1"
    if cell.emulated:
        return "emulated"
    if cell.ratio is None:
        return _DASH
    text = numbers.fixed(cell.ratio, 2)
    if cell.ratio_ci95:
        text += f" {numbers.interval(cell.ratio_ci95, 2, sign=False)}"
    told = word and cell.speed_verdict in ("slower", "same", "undecided")
    return f"{text}, {cell.speed_verdict}" if told else text


def _ms(value: Any) -> str:
    return _DASH if value is None else numbers.three_digits(float(value))


def _short(text: str, limit: int = MAX_TEXT) -> str:
    return escape(text if len(text) <= limit else text[: limit - 1].rstrip() + numbers.ELLIPSIS)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
