"""The steps themselves: export, images, int8, ranges, cache, builder, card and manifest, publication.

Each step is recorded when its files have their names; a step whose inputs and files are those of the record is not done
again. What may crash (export, conversion, calibration) runs in a lane.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from bench import precision
from bench.artifacts import source_sha256
from bench.errors import ArtifactError, InputError
from bench.files import sha256_file, write_atomic
from bench.host import package_versions
from bench.lanes import Lane
from bench.making import OPSET, Maker
from bench.matrix import ModelPlan
from bench.preparing import hub
from bench.preparing.images import Images, open_images
from bench.preparing.manifest import (
    BUILDER,
    CACHE,
    CALIBRATION,
    CARD,
    FILES,
    INT8,
    MANIFEST,
    MODEL,
    facts_of,
    write_manifest,
)
from bench.preparing.modelcard import card
from bench.preparing.ranges import method_of, write_ranges, write_trt_cache
from bench.preparing.steps import IN_PLACE, Steps, Stored, make_folder, place
from bench.schema import canonical
from bench.types import FixtureSet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.events import Events
    from bench.preparing.download import Policy
    from bench.preparing.hub import Published
    from bench.preparing.plan import Order

_TOOLS = ("torch", "onnx", "onnxruntime", "onnxscript")
LOCK = ".prepare.lock"
_NO_IMAGES = FixtureSet(name="", split="calibration", samples=(), categories=(), annotations=(), sha256="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a preparation left behind."""

    folder: Path
    files: tuple[Stored, ...]
    kept: tuple[str, ...]
    """Steps that were finished before."""
    published: Published | None


def prepare(order: Order, events: Events, *, policy: Policy | None = None, bars: bool = False) -> Prepared:
    """Do what is not done yet.

    Args:
        order: what was asked for.
        events: receives progress and notes.
        policy: patience of downloads.
        bars: whether the upload may show progress bars of its own.

    Raises:
        UsageError, InputError, ArtifactError, LaneError, Unavailable: a step failed; the finished ones are kept.
    """
    if order.upload:  # before an hour of work, not after it
        hub.check_repo(order.repo or "")
        hub.token()
    make_folder(order.out)
    try:
        with FileLock(order.out / LOCK, timeout=1), tempfile.TemporaryDirectory(prefix="parity-prepare-") as scratch:
            steps = Steps(order.out)
            steps.sweep()
            if steps.unreadable:
                events.note(f"{steps.unreadable}: every step is done anew.")
            return _Preparation(order, events, steps, Path(scratch), policy, bars).run()
    except Timeout:
        raise InputError(
            f"{order.out}: another parity prepare works in it. Wait for it, or choose --out DIR."
        ) from None


class _Preparation:
    def __init__(
        self, order: Order, events: Events, steps: Steps, logs: Path, policy: Policy | None, bars: bool
    ) -> None:
        self._order = order
        self._events = events
        self._steps = steps
        self._logs = logs
        self._policy = policy
        self._bars = bars
        self._kept: list[str] = []

    def run(self) -> Prepared:
        """All steps in order."""
        export = self._export()
        self._events.stage("Calibration images")
        images = open_images(self._order.choice, progress=self._events.progress, policy=self._policy)
        if images.evaluation_images:
            self._events.note(
                f"{images.evaluation_images} calibration images are in the evaluation set (forced): int8 will look "
                "better than it is. Card and manifest say so."
            )
        elif not images.compared:
            self._events.note(f"calibration images {images.compared_with}: {images.why_not_compared}")
        recipe = self._int8(images)
        ranges = self._calibrate(images, recipe)
        cache = self._cache(recipe)
        self._builder()
        self._describe(images, export, recipe, ranges, cache)
        published = self._publish() if self._order.upload else None
        return Prepared(
            folder=self._order.out, files=tuple(self._stored(*FILES)), kept=tuple(self._kept), published=published
        )

    def _step(
        self, name: str, identity: Mapping[str, Any], files: tuple[str, ...], make: Callable[[], Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        found = self._steps.finished(name, identity)
        if found is not None:
            self._kept.append(name)
            self._events.note(f"{name}: finished before, kept")
            return found
        (self._order.out / MANIFEST).unlink(missing_ok=True)  # a manifest stands for a whole folder
        return self._steps.record(name, identity, files, make())

    def _export(self) -> Mapping[str, Any]:
        order = self._order
        maker = self._maker(None)
        identity: dict[str, Any] = {
            "weights": sha256_file(order.weights),
            "model": order.spec.name,
            IN_PLACE: order.skip_export,
        }
        if order.weights.suffix.lower() != ".onnx":
            identity |= {"adapter": maker.adapter_sha256(), "opset": OPSET, "versions": package_versions(_TOOLS)}
        found = self._step("export", identity, (MODEL,), lambda: self._place_export(maker))
        recipe: Mapping[str, Any] = found["recipe"]
        return recipe

    def _place_export(self, maker: Maker) -> Mapping[str, Any]:
        self._events.stage(f"Export {self._order.spec.name}")
        made = maker.artifact("onnx", "fp32")
        if sha256_file(made.path) != made.sha256:
            raise InputError(
                f"{made.path}: keeps weights in other files. Save it as one file (onnx.save_model without external "
                "data), then type the same command again."
            )
        if made.path.resolve() != (self._order.out / MODEL).resolve():
            place(made.path, self._order.out / MODEL, made.sha256)
        return {"recipe": _plain(made.recipe), IN_PLACE: self._order.skip_export}

    def _int8(self, images: Images) -> Mapping[str, Any]:
        maker = self._maker(images)
        identity = {
            "onnx": self._sha256(MODEL),
            "adapter": maker.adapter_sha256(),
            "images": images.chosen.sha256,
            "options": self._order.request.conversion.identity(),
            "converter": _converter(),
            "versions": package_versions(_TOOLS),
        }
        return self._step("int8", identity, (INT8,), lambda: self._place_int8(maker))

    def _place_int8(self, maker: Maker) -> Mapping[str, Any]:
        self._events.stage("Quantise to int8")
        made = maker.artifact("onnx", "int8")
        if made.made_from != self._sha256(MODEL):
            raise ArtifactError(
                f"{self._order.out / MODEL} is not the file that int8 was made from: the export is not the same twice. "
                f"Delete it and type the same command again."
            )
        place(made.path, self._order.out / INT8, made.sha256)
        return _plain(made.recipe)

    def _calibrate(self, images: Images, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        order = self._order
        identity = {
            "onnx": self._sha256(MODEL),
            "method": method_of(recipe),
            "images": images.chosen.sha256,
            "converter": _converter(),
        }

        def make() -> Mapping[str, Any]:
            self._events.stage("Ranges of the activations")
            text = f"calibrate {order.spec.name}"
            log = self._logs / f"calibrate-{order.spec.name}.log"
            with Lane(name=text, log=log, limits=order.request.limits) as lane:
                return write_ranges(
                    lane,
                    order.out,
                    adapter=order.adapter.target,
                    model=order.spec.name,
                    images=images,
                    recipe=recipe,
                    progress=lambda done, total: self._events.progress(text, done, total),
                )

        return self._step("calibrate", identity, (CALIBRATION,), make)

    def _cache(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        identity = {
            "calibration": self._sha256(CALIBRATION),
            "int8": self._sha256(INT8),
            "version": self._order.cache_version,
            "writer": [_converter(), source_sha256(Path(__file__).with_name("ranges.py"))],
        }
        version = self._order.cache_version
        return self._step(
            "cache", identity, (CACHE,), lambda: write_trt_cache(self._order.out, recipe, version=version)
        )

    def _builder(self) -> None:
        from bench.trt.standalone import standalone_source

        source = standalone_source()

        def make() -> Mapping[str, Any]:
            write_atomic(self._order.out / BUILDER, source)
            return {}

        self._step("builder", {"source": source}, (BUILDER,), make)

    def _describe(
        self,
        images: Images,
        export: Mapping[str, Any],
        recipe: Mapping[str, Any],
        ranges: Mapping[str, Any],
        cache: Mapping[str, Any],
    ) -> None:
        from bench.precision.lint import lint

        order = self._order
        facts = facts_of(
            spec=order.spec,
            variant=order.variant,
            command=order.command,
            weights={
                "name": order.weights.name,
                "sha256": sha256_file(order.weights),
                "bytes": order.weights.stat().st_size,
            },
            images=images,
            images_sha256=ranges["images_sha256"],
            conversion=order.request.conversion,
            export=export,
            recipe=recipe,
            cache=cache,
            objections={name: lint(order.out / name, runtime="trt") for name in (MODEL, INT8)},
            files=self._stored(MODEL, INT8, CALIBRATION, CACHE, BUILDER),
            repo=order.repo,
        )
        text = card(facts)

        def make() -> Mapping[str, Any]:
            self._keep_edited_card()
            write_atomic(order.out / CARD, text)
            return {}

        self._step("card", {"text": text}, (CARD,), make)
        write_manifest(order.out, facts, self._stored(CARD)[0])
        self._steps.record("manifest", {}, (MANIFEST,))

    def _keep_edited_card(self) -> None:
        """A card that somebody wrote into is moved aside, never overwritten."""
        if not self._steps.changed(CARD):
            return
        path = self._order.out / CARD
        number = 1
        while (aside := path.with_name(f"README.edited-{number}.md")).exists():
            number += 1
        path.rename(aside)
        self._events.note(f"{CARD} was changed since it was written; your version is {aside.name}")

    def _publish(self) -> Published:
        repo = self._order.repo or ""
        self._events.stage(f"Publish {repo}")
        return hub.publish(
            self._order.out,
            self._stored(*FILES),
            repo=repo,
            message=f"Prepare {self._order.spec.name} with backend-parity",
            progress=self._bars,
        )

    def _stored(self, *names: str) -> list[Stored]:
        known = self._steps.stored()
        return [known[n] for n in names]

    def _sha256(self, name: str) -> str:
        return self._steps.stored()[name].sha256

    def _maker(self, images: Images | None) -> Maker:
        order = self._order
        plan = ModelPlan(
            adapter=order.adapter,
            spec=order.spec,
            weights=order.weights,
            fixtures=_NO_IMAGES if images is None else images.chosen,
            labels_to_categories=(),
            calibration=None if images is None else images.chosen,
            calibration_label=None if images is None else images.label,
            cells=(),
            golden=None,
        )
        return Maker(
            plan,
            logs=self._logs,
            limits=order.request.limits,
            options=order.request.conversion,
            progress=self._events.progress,
        )


def _plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as the store hands it back: a file just made and one that was found describe themselves alike."""
    document: dict[str, Any] = json.loads(canonical(recipe))
    return document


def _converter() -> str:
    return source_sha256(Path(precision.__file__).parent)
