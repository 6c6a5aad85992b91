"""The timing of one model: shuffled rounds over its lanes, which are closed and opened anew several times.

The first openings bring every cell to the least number of rounds. Then cells whose speed is undecided, and their
reference, go on with further openings until the interval lies inside or outside the band or a limit is reached. Going
on in new openings, not in more rounds of the old ones, is what narrows the interval: rounds cannot average away what a
session brought along.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cores import shareable_cores, usable_cores
from bench.errors import BenchError, LaneError, Unavailable
from bench.noise import NoiseMeter
from bench.nvml import Gpu
from bench.speed import BAND, judge_speed
from bench.timing import clock, steps_for, turns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.events import Events
    from bench.lanes import Lane
    from bench.matrix import Request
    from bench.record import Record
    from bench.types import Sample

WARMUP_STEPS = 5
MIN_ROUNDS_PER_OPENING = 2


def openings_of(request: Request) -> int:
    """Openings in which the least number of rounds is made; each has at least two."""
    return max(1, min(request.openings, request.rounds // MIN_ROUNDS_PER_OPENING))


class TimingRun:
    """Times the cells whose lanes are open.

    Args:
        records: of the model, the reference first.
        lanes: cell name -> open lane; kept up to date while lanes are closed and opened.
        open_lane: opens a lane for a record and enters it in ``lanes``.
        fail: told when a lane fails; removes it from ``lanes``.
        samples: images of the set.
        request: rounds, openings, seed.
        events: told of progress.
        deadline: on ``clock``; rounds end there.
    """

    def __init__(
        self,
        records: Sequence[Record],
        lanes: dict[str, Lane],
        *,
        open_lane: Callable[[Record], Lane],
        fail: Callable[[Record, BenchError], None],
        samples: Sequence[Sample],
        request: Request,
        events: Events,
        deadline: float | None,
    ) -> None:
        self._records, self._lanes = records, lanes
        self._open_lane, self._fail = open_lane, fail
        self._samples, self._request, self._events, self._deadline = samples, request, events, deadline
        self._reference = next((r for r in records if r.planned.role == "reference"), None)
        self._generator = np.random.default_rng(request.seed)
        self._per_opening = -(-request.rounds // openings_of(request))
        self._done = 0
        self._cores = shareable_cores(request.threads)
        # a stream of its own: the order of the lanes is a matter of the seed alone, not of the host
        self._core_generator = np.random.default_rng((request.seed, 1))

    def run(self) -> dict[str, Any]:
        """Measure; returns the noise of the run (``NoiseMeter.summary``), empty when nothing was timed."""
        live = [r for r in self._records if str(r.cell) in self._lanes]
        if not live:
            return {}
        self._events.stage(f"Timing {len(live)} cells in shuffled rounds")
        gpu = self._gpu(live)
        meter = NoiseMeter(self._pids, gpu=gpu)
        opening = 1
        while live and self._done < self._request.max_rounds:
            if opening > 1:
                self._reopen(live)
            self._hold(live)
            self._rounds(live, opening, meter)
            if not self._time_left():
                self._stop(live, f"The time budget of {self._request.time_budget_s:g} s was used up.")
                break
            opening += 1
            if self._done >= self._request.rounds:
                live = self._undecided([r for r in live if str(r.cell) in self._lanes])
        self._stop(live, f"The limit of {self._request.max_rounds} rounds was reached.")
        if self._cores:
            self._stay_on(usable_cores(), self._records)
        summary = meter.summary()
        if gpu is not None:
            gpu.close()
        return summary

    def _rounds(self, live: list[Record], opening: int, meter: NoiseMeter) -> None:
        """The rounds of one opening."""
        total = self._request.rounds if self._done < self._request.rounds else self._request.max_rounds
        meter.begin()
        for _ in range(min(self._per_opening, total - self._done)):
            if not self._time_left():
                return
            self._done += 1
            order = [live[i] for i in self._generator.permutation(len(live))]
            self._share_core(live)
            taken = self._round(order, opening)
            tags = meter.end_round()
            for entry in taken:
                entry["tags"] = tags
            self._events.progress("timing rounds", self._done, total)

    def _round(self, order: list[Record], opening: int) -> list[dict[str, Any]]:
        """Every lane's steps of one round, in turns; a lane that fails has no part in it."""
        steps = [steps_for(float(np.median(r.rounds[-1]["samples_ms"])) if r.rounds else None) for r in order]
        samples_ms: dict[str, list[float]] = {str(r.cell): [] for r in order}
        entries = []
        for place, own in turns_of(steps):
            record = order[place]
            name = str(record.cell)
            lane = self._lanes.get(name)
            if lane is None:
                continue
            command = "turn" if own.stop < steps[place] else "round"
            try:
                answer = lane.call(command, number=self._done, first=own.start, steps=len(own))
            except LaneError as error:
                self._fail(record, error)
                continue
            if command == "turn":
                samples_ms[name] += answer
                continue
            record.fetched.append({"round": self._done, "differences": answer.pop("differences")})
            answer["samples_ms"] = samples_ms[name] + answer["samples_ms"]
            entry = {"round": self._done, "opening": opening, "order": place + 1, **answer, "tags": []}
            record.rounds.append(entry)
            entries.append(entry)
        return entries

    def _share_core(self, live: list[Record]) -> None:
        """Bring all lanes on the CPU to one core for this round, where that can be."""
        if self._cores:
            self._stay_on((self._cores[int(self._core_generator.integers(len(self._cores)))],), live)

    def _stay_on(self, cores: tuple[int, ...], records: Sequence[Record]) -> None:
        for record in records:
            lane = self._lanes.get(str(record.cell))
            if lane is None or record.cell.device != "cpu":
                continue
            try:
                lane.call("stay_on", cores=cores)
            except Unavailable as error:
                self._events.note(f"The lanes do not share a core, the kernel places them: {error}")
                self._cores = ()
                return
            except LaneError as error:
                self._fail(record, error)

    def _hold(self, live: list[Record]) -> None:
        for record in live:
            lane = self._lanes.get(str(record.cell))
            if lane is None:
                continue
            expected = record.accuracy.kept if record.accuracy is not None else ()
            try:
                apart = lane.call(
                    "hold", samples=self._samples, batch=record.cell.batch, warmup=WARMUP_STEPS, expected=expected
                )
                if apart:
                    record.builds_apart.append(apart)
            except BenchError as error:
                self._fail(record, error)

    def _reopen(self, live: list[Record]) -> None:
        """Close every lane and open those that go on."""
        self.read_memory()
        for lane in self._lanes.values():
            lane.close()
        going_on = [r for r in live if str(r.cell) in self._lanes]
        self._lanes.clear()
        for record in going_on:
            try:
                self._open_lane(record)
            except BenchError as error:
                self._fail(record, error)

    def read_memory(self) -> None:
        """Peak memory of every open lane; a lane that fails here fails its cell."""
        for record in self._records:
            lane = self._lanes.get(str(record.cell))
            if lane is not None:
                try:
                    record.peak_rss_mb = max(lane.call("peak"), record.peak_rss_mb or 0.0)
                except BenchError as error:
                    self._fail(record, error)

    def _undecided(self, live: list[Record]) -> list[Record]:
        """Cells that go on, their reference with them; writes down why the others stop."""
        reference = self._reference
        going_on = []
        for record in live:
            if record is reference:
                continue
            verdict = self._verdict(record)
            if verdict == "undecided":
                going_on.append(record)
            elif verdict is None:
                record.stopped = f"There is no ratio to decide; {len(record.rounds)} rounds were asked for."
            else:
                record.stopped = (
                    f"Decided after {len(record.rounds)} rounds: the interval lies "
                    f"{'inside' if verdict == 'same' else 'outside'} the band of ±{100 * BAND:g} %."
                )
        if going_on and reference is not None:
            return [reference, *going_on]
        if reference is not None and reference in live:
            reference.stopped = "Every cell that is compared with it has stopped."
        return []

    def _verdict(self, record: Record) -> str | None:
        """None where there is no ratio: emulated, another device, a wrong label, no reference."""
        reference = self._reference
        if (
            reference is None
            or str(reference.cell) not in self._lanes
            or record.planned.mode != "native"
            or record.attestation is not None
            or record.cell.device != reference.cell.device
        ):
            return None
        return judge_speed(reference.rounds, record.rounds).verdict

    def _stop(self, live: list[Record], why: str) -> None:
        for record in live:
            record.stopped = record.stopped or why

    def _time_left(self) -> bool:
        return self._deadline is None or self._done < 2 or clock() < self._deadline

    def _pids(self) -> list[int]:
        return [os.getpid(), *(lane.pid for lane in self._lanes.values())]

    def _gpu(self, live: list[Record]) -> Gpu | None:
        """The GPU that is timed, when one is and NVML can be read."""
        timed = [r.cell.device.partition(":") for r in live]
        index = next((number or "0" for kind, _, number in timed if kind in ("cuda", "tensorrt")), None)
        if index is None:
            return None
        try:
            return Gpu(int(index))
        except Unavailable as error:
            self._events.note(f"The GPU's clocks are not watched: {error}")
            return None
