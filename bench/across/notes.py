"""What is not the same in two runs, and what of it keeps their speeds or their accuracies from being compared. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.across.comparison import Note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SHORT_HASH = 12
_STEP = 1.03
"""A smaller change of the reference's own latency is not worth a line: it differs between any two runs."""
_SPEED_PROTOCOL = {"threads": "threads", "batch": "batch", "latency_includes": "content of the latency"}
"""Settings that change what a latency is; how long it was measured (rounds, seeds) changes its interval only."""


def speed_blocks(base: Mapping[str, Any], cand: Mapping[str, Any], model: str) -> tuple[str, ...]:
    """Why the speeds of one model's cells cannot be compared: ``other GPU``, ``other threads``; empty when they can."""
    found = []
    for name, words in (("cpu", "other CPU"), ("cores", "other number of cores")):
        if base["host"][name] != cand["host"][name]:
            found.append(words)
    if gpu_name(base["host"]["gpu"]) != gpu_name(cand["host"]["gpu"]):
        found.append("other GPU")
    found += [
        f"other {words}"
        for name, words in _SPEED_PROTOCOL.items()
        if base["protocol"].get(name) != cand["protocol"].get(name)
    ]
    references = [s["reference"]["cells"].get(model) for s in (base, cand)]
    if references[0] != references[1]:
        found.append("other reference cell")
    return tuple(found)


def fixtures_of(suite: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """``{sha256, images}`` of a fixture set as the run's protocol states it; empty when it does not."""
    known = suite["protocol"].get("fixtures")
    facts = known.get(name) if isinstance(known, dict) else None
    return facts if isinstance(facts, dict) else {}


def gpu_name(gpu: str | None) -> str | None:
    """The device without the driver's version, which stands after a comma."""
    return None if gpu is None else gpu.partition(",")[0].strip()


def notes_of(base: Mapping[str, Any], cand: Mapping[str, Any]) -> list[Note]:
    """Everything that differs between two suites, old value first."""
    notes = [*_host(base["host"], cand["host"]), *_versions(base["host"]["versions"], cand["host"]["versions"])]
    notes += _protocol(base["protocol"], cand["protocol"])
    notes += _fixtures(base["protocol"].get("fixtures"), cand["protocol"].get("fixtures"))
    notes += _references(base, cand)
    notes += _artifacts(base, cand)
    for word, suite in (("base", base), ("candidate", cand)):
        if suite["interrupted"] or suite.get("aborted"):
            notes.append(
                Note(kind="suite", text=f"The {word} run did not finish: {suite.get('aborted') or 'interrupted'}.")
            )
        if (suite["git"] or {}).get("dirty"):
            notes.append(
                Note(kind="suite", text=f"The {word} run was made in a working folder with uncommitted changes.")
            )
    return notes


def _host(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Note]:
    labels = (
        ("name", "host", "host"),
        ("cpu", "CPU", "cpu"),
        ("cores", "cores", "cpu"),
        ("memory_gb", "memory in GB", "host"),
        ("os", "system", "os"),
        ("python", "Python", "version"),
    )
    for name, words, kind in labels:
        if old[name] != new[name]:
            yield _arrow(kind, words, old[name], new[name])
    if gpu_name(old["gpu"]) != gpu_name(new["gpu"]):
        yield _arrow("gpu", "GPU", old["gpu"] or "none", new["gpu"] or "none")
    elif old["gpu"] != new["gpu"]:
        yield _arrow("version", "GPU driver", old["gpu"], new["gpu"])


def _versions(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Note]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield _arrow("version", name, old.get(name, "absent"), new.get(name, "absent"))


def _protocol(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Note]:
    flat_old, flat_new = (dict(_flat(p)) for p in (old, new))
    for name in sorted(flat_old.keys() | flat_new.keys()):
        if flat_old.get(name) != flat_new.get(name):
            yield _arrow("protocol", name, flat_old.get(name, "absent"), flat_new.get(name, "absent"))


def _flat(protocol: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in protocol.items():
        if name == "fixtures":
            continue
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", v) for inner, v in value.items())
        else:
            yield name, value


def _fixtures(old: Any, new: Any) -> Iterator[Note]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return
    for name in sorted(old.keys() & new.keys()):
        for fact in ("sha256", "images"):
            values = [side[name].get(fact) if isinstance(side[name], dict) else None for side in (old, new)]
            if values[0] != values[1]:
                yield _arrow("fixtures", f"{fact} of {name}", _short(values[0]), _short(values[1]))


def _references(base: Mapping[str, Any], cand: Mapping[str, Any]) -> Iterator[Note]:
    old, new = base["reference"]["cells"], cand["reference"]["cells"]
    for model in sorted(old.keys() & new.keys()):
        if old[model] != new[model]:
            yield _arrow("reference", f"reference of {model}", old[model], new[model])
            continue
        p50 = [_reference_p50(s, model) for s in (base, cand)]
        if p50[0] and p50[1] and not 1 / _STEP <= p50[1] / p50[0] <= _STEP:
            text = f"p50 of {model}'s reference: {p50[0]:.3g} → {p50[1]:.3g} ms. Speeds are compared as ratios to it."
            yield Note(kind="speed", text=text)


def _reference_p50(suite: Mapping[str, Any], model: str) -> float | None:
    for record in suite["cells"]:
        if record["role"] == "reference" and record["cell"]["model"] == model and record["speed"] is not None:
            return float(record["speed"]["latency_ms"]["p50"])
    return None


def _artifacts(base: Mapping[str, Any], cand: Mapping[str, Any]) -> list[Note]:
    """One note per changed file; the cells that share it are named together."""
    old = {_key(c): c for c in base["cells"]}
    changed: dict[tuple[str, str, str, str], list[str]] = {}
    for record in cand["cells"]:
        before = old.get(_key(record))
        if before is None or not before["artifact"] or not record["artifact"]:
            continue
        pair = (before["artifact"]["sha256"], record["artifact"]["sha256"])
        if pair[0] != pair[1]:
            where = record["cell"]
            changed.setdefault((where["model"], record["artifact"]["kind"], *pair), []).append(
                f"{where['backend']} {where['precision']}"
            )
    return [
        _arrow("artifact", f"{kind} of {model} {', '.join(cells)}", _short(old_hash), _short(new_hash))
        for (model, kind, old_hash, new_hash), cells in changed.items()
    ]


def _key(record: Mapping[str, Any]) -> str:
    return repr(sorted(record["cell"].items()))


def _arrow(kind: str, what: str, old: Any, new: Any) -> Note:
    return Note(kind=kind, text=f"{what}: {old} → {new}")


def _short(value: Any) -> Any:
    return value[:_SHORT_HASH] if isinstance(value, str) else value
