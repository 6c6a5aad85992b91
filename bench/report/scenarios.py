"""``scenarios.json`` to one self-contained page, and the sentences that the terminal shares with it. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.report import numbers
from bench.report.flips import Picture, caption_of, label_grounds, lay_out, outlines, pairs_of, picture_of

if TYPE_CHECKING:
    from collections.abc import Mapping

LOWEST_AP = 0.01
"""Of clean: below, there is nothing to lose."""
MOST_EXTRA = 6
"""Extra detections that are drawn; a low threshold brings dozens, and their labels hide the image."""
BAR_PX = 300
"""Width of the AP axis."""
COMPARED = {
    "same_truth": "paired: the same images, the same objects",
    "moved_truth": "the same images, boxes moved with them",
    "other_objects": "other objects of the same images",
    "part_of_images": "a part of the images",
}
MEANINGS = {
    "same_truth": (
        "Only pixels changed. Both sides are scored on the same draw of images, so what the images share cancels."
    ),
    "moved_truth": (
        "Boxes moved with the pixels, and each side has its own truth. Both are scored on the same draw of images; "
        "objects that were cut away are in neither AP."
    ),
    "other_objects": (
        "The same detections, and only some objects count: others are ignored, and finding them is not wrong. The "
        "difference says how much harder these objects are, not what anything did to the model."
    ),
    "part_of_images": (
        "The same detections on some of the images. The difference is that of the part and the whole it is in, drawn "
        "together: it says how much harder these images are, not what anything did to the model."
    ),
}
_MOVED = {
    "clipped": "cut at the edge",
    "ignored": "ignored (too little visible)",
    "gone": "outside",
    "loose": "boxed around turned corners (larger than the object)",
}
_EXIT = {
    0: "scored",
    1: "a scenario ended in an error, or is below the AP asked for",
    3: "what was asked for could not be scored",
    130: "interrupted; what was finished is kept",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario of the table."""

    raw: Mapping[str, Any]
    ap: str
    interval: str
    delta: str
    delta_interval: str
    word: str
    """Colour of the difference: ``failed`` clearly below clean, ``passed`` clearly above, ``skipped`` neither."""
    bar: float | None
    """Length in pixels."""
    ends: tuple[float, float] | None
    latency: str


def render_scenarios(document: Mapping[str, Any]) -> str:
    """Render the page.

    Args:
        document: valid under ``schemas/scenario_result.json``.

    Returns:
        HTML with everything inside.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        plural=numbers.plural, short_hash=numbers.short_hash, outlines=outlines, label_grounds=label_grounds
    )
    return environment.get_template("scenarios.html").render(_context(document))


def _context(document: Mapping[str, Any]) -> dict[str, Any]:
    axis = axis_of(document)
    scored = scored_of(document)
    pictures = [(s, picture) for s in scored if (picture := _picture(s)) is not None]
    jpegs = [picture.jpeg for _, picture in pictures if picture.jpeg]
    clean = clean_of(document)
    return {
        "run": document,
        "headline": headline(document),
        "tally": tally(document),
        "finding": finding(document),
        "rows": [row_of(s, axis) for s in scored],
        "others": others_of(document),
        "warned": [(s["name"], text) for s in scored for text in s["warnings"]],
        "axis": numbers.fixed(axis, 1),
        "clean_at": None if clean is None or clean["stats"]["AP"] is None else _px(clean["stats"]["AP"], axis),
        "bar": BAR_PX,
        "with_latency": any(s["latency_ms"] for s in scored),
        "pictures": pictures,
        "thumbnails": {jpeg: f"thumb-{i}" for i, jpeg in enumerate(dict.fromkeys(jpegs))},
        "definitions": [
            (s, definition_of(s), moved_of(s), COMPARED.get(s["comparison"], "")) for s in document["scenarios"]
        ],
        "meanings": [(COMPARED[c], MEANINGS[c]) for c in COMPARED if any(s["comparison"] == c for s in scored)],
        "no_intervals": list(dict.fromkeys(s["no_interval"] for s in scored if s["no_interval"])),
        "stat_names": list(scored[0]["stats"]) if scored else [],
        "stats": [(s["name"], [_stat(value) for value in s["stats"].values()]) for s in scored],
        "facts": facts_of(document),
        "files": [(s["name"], s["predictions"]) for s in scored if s["predictions"]],
        "exit_sentence": exit_sentence(document),
        "includes": document["latency_includes"],
        "command": _command(document),
    }


def scored_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Scenarios with numbers, in their order."""
    return [s for s in document["scenarios"] if s["status"] == "scored"]


def others_of(document: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Status, reason and names of scenarios without numbers, told once per reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for scenario in document["scenarios"]:
        if scenario["status"] != "scored":
            found.setdefault((scenario["status"], scenario["reason"]), []).append(scenario["name"])
    return [(status, reason, names) for (status, reason), names in found.items()]


def clean_of(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The one that all others are compared with; None when it has no numbers."""
    return next((s for s in scored_of(document) if s["name"] == "clean"), None)


def headline(document: Mapping[str, Any]) -> str:
    """Which alteration costs most, and whether the images can tell that it costs anything."""
    clean = clean_of(document)
    if clean is None:
        return "Clean has no result, so nothing is compared."
    ap = clean["stats"]["AP"]
    if ap is None:
        return "AP is undefined: these images hold no object that counts."
    if ap < LOWEST_AP:
        return f"AP is {numbers.fixed(ap, 3)} on the images as they are: no loss could show."
    altered = [s for s in scored_of(document) if s["kind"] == "altering" and s["deltas"]["AP"]["value"] is not None]
    if not altered:
        return f"AP is {numbers.fixed(ap, 3)} on the images as they are; no altered images were scored."
    worst = min(altered, key=lambda s: s["deltas"]["AP"]["value"])
    delta = worst["deltas"]["AP"]
    if delta["value"] >= 0 or (delta["ci95"] and delta["ci95"][1] >= 0):
        return f"No altered scenario is clearly below the AP of {numbers.fixed(ap, 3)} on the images as they are."
    return f"AP falls most in {worst['name']}: from {numbers.fixed(ap, 3)} to {numbers.fixed(worst['stats']['AP'], 3)}."


def tally(document: Mapping[str, Any]) -> str:
    """``yolov10n, onnxrt int8 on cpu, on 50 images of shapes. 8 scenarios scored, 5 unsupported.``."""
    model, fixtures = document["model"], document["fixtures"]
    who = model["adapter"]
    if model.get("backend"):
        who += f", {model['backend']} {model['precision']} on {model['device']}"
    words = [s["status"] for s in document["scenarios"]]
    counted = [f"{words.count('scored')} of {numbers.plural(len(words), 'scenario')} scored"]
    counted += [f"{words.count(w)} {w}" for w in ("unsupported", "error", "skipped") if w in words]
    return f"{who}, on {numbers.plural(fixtures['images'], 'image')} of {fixtures['name']}. {', '.join(counted)}."


def finding(document: Mapping[str, Any]) -> str:
    """Which differences are clear."""
    clean = clean_of(document)
    if clean is not None and (clean["stats"]["AP"] or 0.0) < LOWEST_AP:
        return "No difference means anything: use a model, classes or images that fit each other."
    compared = [s for s in scored_of(document) if s["deltas"] and s["deltas"]["AP"]["ci95"]]
    if not compared:
        return "No difference has an interval, so none can be told from chance."
    below = [s["name"] for s in compared if s["deltas"]["AP"]["ci95"][1] < 0]
    above = [s["name"] for s in compared if s["deltas"]["AP"]["ci95"][0] > 0]
    neither = [s["name"] for s in compared if s["name"] not in (*below, *above)]
    named = (("Clearly below clean", below), ("Clearly above clean", above), ("Not told from clean", neither))
    return " ".join(f"{words}: {numbers.in_words(names)}." for words, names in named if names)


def exit_sentence(document: Mapping[str, Any]) -> str:
    """``Exit 0: scored.``."""
    return f"Exit {document['exit_code']}: {_EXIT[document['exit_code']]}."


def axis_of(document: Mapping[str, Any]) -> float:
    """Right end of the AP axis, in tenths."""
    ends = [float(v) for s in scored_of(document) for v in (s["stats"]["AP"] or 0.0, *(s["ap_ci95"] or ()))]
    return max(math.ceil(max(ends, default=0.0) * 10 - 1e-9) / 10, 0.1)


def row_of(scenario: Mapping[str, Any], axis: float = 1.0) -> Row:
    """A scored scenario in words and pixels."""
    ap, interval = scenario["stats"]["AP"], scenario["ap_ci95"]
    delta = (scenario["deltas"] or {}).get("AP") or {"value": None, "ci95": None}
    word = "skipped"
    if delta["ci95"] is not None:
        word = "failed" if delta["ci95"][1] < 0 else "passed" if delta["ci95"][0] > 0 else "skipped"
    latency = scenario["latency_ms"]
    return Row(
        raw=scenario,
        ap="undefined" if ap is None else numbers.fixed(ap, 3),
        interval="" if interval is None else numbers.interval(interval, 3, sign=False),
        delta="" if delta["value"] is None else numbers.signed(delta["value"], 3),
        delta_interval="" if delta["ci95"] is None else numbers.interval(delta["ci95"], 3, sign=True),
        word=word,
        bar=None if ap is None else _px(ap, axis),
        ends=None if interval is None else (_px(interval[0], axis), _px(interval[1], axis)),
        latency="" if latency is None else numbers.three_digits(latency["p50"]),
    )


def definition_of(scenario: Mapping[str, Any]) -> str:
    """``low_light exposure 0.35, gamma 1.4; jpeg quality 20``: the definition in words."""
    definition = scenario["definition"]
    if "alter" in definition:
        return "; ".join(f"{step['op']} {_plain(step)}".strip() for step in definition["alter"])
    return _plain(definition.get("select", {})) or "everything"


def moved_of(scenario: Mapping[str, Any]) -> str:
    """``12 cut at the edge, 3 outside`` of a scenario that moves boxes; empty for others."""
    moved = scenario["moved"] or {}
    return ", ".join(f"{moved[name]} {words}" for name, words in _MOVED.items() if moved.get(name))


def facts_of(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the numbers depend on."""
    model, fixtures, host = document["model"], document["fixtures"], document["host"]
    git, protocol, observed = document["git"], document["protocol"], model.get("observed")
    facts = [
        ("Started", numbers.stamp(document["started_at"])),
        ("Took", numbers.took(document["started_at"], document["finished_at"]) or "not known"),
        ("Model", model["adapter"]),
    ]
    if model.get("backend"):
        facts += [("Runtime", str(model["runtime"])), ("Threads", str(model["threads"]))]
        facts.append(("Artefact", f"{model['artifact']['kind']} {numbers.short_hash(model['artifact']['sha256'])}"))
    if observed:
        emulated = ", emulated" if observed["emulated"] else ""
        facts.append(("Observed", f"{observed['precision']} on {observed['provider']}{emulated}"))
    objects = numbers.plural(fixtures["objects"], "object")
    facts += [
        ("Images", f"{fixtures['images']:,} of {fixtures['name']}, {fixtures['split']}, {objects}"),
        ("Set", numbers.short_hash(fixtures["sha256"])),
        ("Scored as", document["task"]),
        ("Scorer", document["scorer"]),
        ("Definitions", f"{numbers.short_hash(document['definitions']['sha256'])}, "
                        f"{document['definitions']['file'] or 'the defaults'}"),
        ("Seed", str(document["seed"])),
        ("Intervals", f"95 %, {document['resamples']:,} resamples of the images"),
        ("Protocol", "not stated" if protocol is None else f"{protocol['id']} {numbers.short_hash(protocol['hash'])}"),
        ("Commit", "not in a repository" if git is None else
         f"{git['commit'][:7]}, {'changed tree' if git['dirty'] else 'clean tree'}"),
        ("Host", f"{host.get('cpu', 'unknown')}, {numbers.plural(host.get('cores', 0), 'core')}"),
    ]  # fmt: skip
    return facts


def _picture(scenario: Mapping[str, Any]) -> Picture | None:
    """What was found on the example, by what is there; misses are drawn too, of extra detections the best."""
    example = scenario["example"]
    if example is None:
        return None
    truth, found = list(example["truth"]), list(example["detections"])
    base = picture_of({**example, "kind": "", "explained": True, "ref": [], "cand": []})
    partner = {c: t for t, (c, _) in pairs_of(truth, found).items()}
    extra = [index for index in range(len(found)) if index not in partner]
    drawn = []
    for index, box in enumerate(found):
        if index in extra[MOST_EXTRA:]:
            continue
        there = truth[partner[index]]["label"] if index in partner else None
        if there is None:
            drawn.append((box, "extra", f"extra {caption_of(box)}"))
        elif there != box["label"]:
            drawn.append((box, "changed", f"{caption_of(box)}, is {there[:24]}"))
        else:
            drawn.append((box, "same", caption_of(box)))
    kept = set(partner.values())
    drawn += [(box, "missed", f"missed {box['label'][:24]}") for t, box in enumerate(truth) if t not in kept]
    left_out = max(len(extra) - MOST_EXTRA, 0)
    return replace(base, candidate=lay_out(drawn, base.width, base.height, base.font), left_out=left_out)


def _plain(values: Mapping[str, Any]) -> str:
    """``exposure 0.35, gamma 1.4``."""
    told = []
    for name, value in values.items():
        if name not in ("op", "description"):
            text = " to ".join(f"{v:g}" for v in value) if name.endswith("px2") else json.dumps(value).strip("[]")
            told.append(f"{name.replace('_px2', ' px²').replace('_', ' ')} {text}")
    return ", ".join(told)


def _stat(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else numbers.fixed(value, 3)


def _px(value: float, axis: float) -> float:
    return round(min(max(float(value) / axis, 0.0), 1.0) * BAR_PX, 1)


def _command(document: Mapping[str, Any]) -> str:
    command = str(document["command"])
    return command if any(quote in command for quote in "'\"\\") else command.replace(" --", " \\\n  --")
