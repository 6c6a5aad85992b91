"""Section 9: what ran, from which files, on which machine. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import numbers
from bench.report.answer import EXIT_WORDS, allowed_loss
from bench.report.evidence import flat, plain

if TYPE_CHECKING:
    from bench.report.cells import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRow:
    """One file."""

    name: str
    sha256: str
    source: str
    """What it was made from, in words."""
    source_full: str | None
    """Its whole hash, or the whole recipe."""


def facts_of(run: Run) -> list[tuple[str, str]]:
    """The run head under the answer."""
    suite, host, git = run.suite, run.suite["host"], run.suite["git"]
    length = numbers.took(suite["started_at"], suite["finished_at"])
    loss = ", ".join(f"{name} {text}" for name, text in allowed_loss(run))
    cores = numbers.plural(host["cores"], "core")
    memory = numbers.fixed(round(float(host["memory_gb"])), 0)
    intervals = "95 %, paired over images and rounds" if run.has_intervals else "none in this file"
    return [
        ("Run", suite["run_id"]),
        ("Started, took", numbers.stamp(suite["started_at"]) + (f", {length}" if length else "")),
        ("Commit", _commit(git)),
        ("Host", f"{host['name']}, {cores}, {memory} GB, {host['gpu'] or 'no GPU'}"),
        ("Reference", reference_of(run)),
        ("Allowed AP loss, of the reference", loss or "none was judged"),
        ("Intervals", intervals),
        ("Exit code", f"{suite['exit_code']} ({EXIT_WORDS[suite['exit_code']]})"),
    ]


def command_of(run: Run) -> str:
    """The command with one option per line, as a shell takes it; left alone where quotes could hold an option."""
    command = str(run.suite["command"])
    return command if any(quote in command for quote in "'\"\\") else command.replace(" --", " \\\n  --")


def protocol_of(run: Run) -> list[tuple[str, str]]:
    """Every setting that a number depends on, as the run recorded it."""
    protocol = run.suite["protocol"]
    return [(_label(name), _value(value)) for name, value in protocol.items() if not _manifests(name, value)]


def host_of(run: Run) -> list[tuple[str, str]]:
    """Machine and versions."""
    host = run.suite["host"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    memory = numbers.fixed(float(host["memory_gb"]), 1)
    known = {"name", "cpu", "cores", "memory_gb", "gpu", "os", "python", "versions"}
    return [
        ("Host", f"{host['name']}, {host['cpu']}, {numbers.plural(host['cores'], 'core')}, {memory} GB"),
        ("GPU", host["gpu"] or "none"),
        ("System", f"{host['os']}, Python {host['python']}"),
        ("Versions", versions or "none recorded"),
        ("File", run.suite["schema"]),
        *((_label(name), _value(value)) for name, value in host.items() if name not in known),
    ]


def artifacts_of(run: Run) -> list[ArtifactRow]:
    """Each file once, in reading order, with what it was made from."""
    names: dict[str, str] = {}
    records: dict[str, Any] = {}
    for cell in run.cells:
        artifact = cell.raw["artifact"]
        if artifact and artifact["sha256"] not in names:
            # One weights file serves every precision of torch; a graph belongs to one.
            precision = "" if artifact["kind"] == "weights" else f" {cell.precision}"
            names[artifact["sha256"]] = f"{cell.model}{precision} {artifact['kind']}"
            records[artifact["sha256"]] = artifact
    rows = []
    for digest, artifact in records.items():
        parent = artifact["made_from"]
        parts = [names.get(parent) or numbers.short_hash(parent)] if parent else []
        recipe = flat(artifact["recipe"])
        parts += [line.removeprefix("tool: ").replace(": ", " ") for line in recipe[:3] if len(line) <= 48]
        full = "; ".join([*([parent] if parent else []), *recipe])
        source = ", ".join(parts) or "given"
        rows.append(ArtifactRow(name=names[digest], sha256=digest, source=source, source_full=full or None))
    for name, value in run.suite["protocol"].items():
        for fixtures, manifest in _manifests(name, value).items():
            images = manifest.get("images")
            source = numbers.plural(images, "image") if isinstance(images, int) else "fixture set"
            sha256 = str(manifest["sha256"])
            rows.append(ArtifactRow(name=f"{fixtures} manifest", sha256=sha256, source=source, source_full=None))
    return rows


def _manifests(name: str, value: Any) -> dict[str, Any]:
    """Fixture sets of the protocol that carry a hash; they stand among the artefacts."""
    if name != "fixtures" or not isinstance(value, dict):
        return {}
    hashed = {key: item for key, item in value.items() if isinstance(item, dict) and "sha256" in item}
    return hashed if len(hashed) == len(value) else {}


def _commit(git: Any) -> str:
    if git is None:
        return "not in a repository"
    branch = f" on {git['branch']}" if git["branch"] else ""
    return f"{git['commit'][:7]}{branch}, {'changed tree' if git['dirty'] else 'clean tree'}"


def reference_of(run: Run) -> str:
    """What the cells were really compared with: an .onnx has no torch module, whatever was asked for."""
    cells = [cell.raw["cell"] for cell in run.cells if cell.raw["role"] == "reference"]
    names = dict.fromkeys(f"{cell['backend']} {cell['precision']} on {cell['device']}" for cell in cells)
    return ", ".join(names) or str(run.suite["reference"]["asked"])


def _label(name: str) -> str:
    text = str(name).replace("_", " ")
    return text[:1].upper() + text[1:]


def _value(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "; ".join(line.replace(": ", " ") for line in flat(value)) or "none"
    return plain(value)
