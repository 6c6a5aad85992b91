"""What a lane does while it is timed: several resident batches, rounds, and the outputs of what was timed.

Every round rewrites which binding holds which batch, outside the clock: a step that stopped working then gives the
outputs of another image, and the comparison with the accuracy pass shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.passes import KEPT_BATCHES, batch_feeds, prepare
from bench.speed import max_difference
from bench.timing import time_each, time_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.types import Adapter, Array, Runner, Sample


class TimedBatches:
    """The first whole batches of a set, bound for timing.

    Args:
        runner: an open one.
        adapter: preprocesses the images.
        samples: images of the set, in the order of the accuracy pass.
        batch: of the cell.
        expected: outputs of the accuracy pass for the first batches, or nothing.
    """

    def __init__(
        self,
        runner: Runner,
        adapter: Adapter,
        samples: Sequence[Sample],
        *,
        batch: int,
        expected: Sequence[Mapping[str, Array]] = (),
    ) -> None:
        whole = min(len(samples) // batch, len(expected) or KEPT_BATCHES)
        images = [prepare(adapter, s)[0] for s in samples[: max(whole, 1) * batch]]
        groups = [images[i * batch : (i + 1) * batch] for i in range(whole)]
        # Fewer images than the batch: repeated, and without anything to compare with.
        self._feeds = [batch_feeds(runner, g, batch) for g in groups or [(images * batch)[:batch]]]
        self._expected: list[Mapping[str, Array]] = list(expected[:whole])
        self._bound = [runner.bind(f) for f in self._feeds]
        self._holds: list[int | None] = list(range(len(self._bound)))

    def expect_own(self, runner: Runner) -> dict[str, float]:
        """Hold the timed outputs to what this runner itself gives: builds of one graph differ by more than repeats.

        Returns:
            Output -> largest absolute difference to what was expected before.
        """
        own = [runner.run(feeds) for feeds in self._feeds[: len(self._expected)]]
        apart: dict[str, float] = {}
        for outputs, before in zip(own, self._expected, strict=True):
            for name, value in before.items():
                found = max_difference(outputs.get(name), value)
                apart[name] = float(np.maximum(apart.get(name, 0.0), found))  # np.maximum keeps NaN
        self._expected = list(own)
        return apart

    def warm_up(self, steps: int) -> None:
        """At least ``steps`` in all, every binding alike."""
        for bound in self._bound:
            time_steps(bound.step, -(-steps // len(self._bound)))

    def turn(self, *, number: int, first: int, steps: int) -> list[float]:
        """Milliseconds of ``steps`` steps of a round, from its step ``first`` on; they cycle through the batches.

        Args:
            number: of the round, counted over all openings; decides batches and order, alike in every lane.
            first: steps of this round before this turn.
            steps: to time.
        """
        count = len(self._bound)
        for place in range(count):
            self._load(place, (place + number) % count)
        places = [self._place(number, first + i) for i in range(steps)]
        self._bound[(places[0] + 1) % count].step()  # finds the caches as another lane left them; it is not a sample
        return [round(s, 5) for s in time_each([self._bound[place].step for place in places])]

    def round(self, *, number: int, steps: int, first: int = 0) -> dict[str, Any]:
        """The last turn of a round, and what is looked at once per round.

        Args:
            number: see ``turn``.
            steps: to time.
            first: steps of this round before this turn.

        Returns:
            ``samples_ms`` of the steps; ``fresh_ms`` and ``repeated_ms``, one step each on an input that the runtime
            never saw and on one that it has just seen (empty where no input can be varied); ``differences`` to the
            accuracy pass: output -> largest absolute one, of the last timed step.
        """
        samples_ms = self.turn(number=number, first=first, steps=steps)
        last = self._place(number, first + steps - 1)
        result: dict[str, Any] = {
            "samples_ms": samples_ms,
            "differences": self._differences(last),
            "fresh_ms": [],
            "repeated_ms": [],
        }
        seen = self._feeds[(last + number) % len(self._feeds)]
        fresh = shifted(seen, number)
        if fresh is not None:
            # Both steps follow a load and differ in one thing only. Who goes first changes from round to round.
            if number % 2:
                result["repeated_ms"] = self._step_on(last, seen)
                result["fresh_ms"] = self._step_on(last, fresh)
            else:
                result["fresh_ms"] = self._step_on(last, fresh)
                result["repeated_ms"] = self._step_on(last, fresh)
            self._holds[last] = None
        return result

    def _place(self, number: int, step: int) -> int:
        """Binding of a step of a round.

        The last step, whose outputs are fetched, comes to every batch in as many rounds as there are batches, to every
        binding in their square.
        """
        count = len(self._bound)
        return (number // count + step) % count

    def _step_on(self, place: int, feeds: Mapping[str, Array]) -> list[float]:
        self._bound[place].load(feeds)
        return time_steps(self._bound[place].step, 1)

    def _load(self, place: int, batch: int) -> None:
        if self._holds[place] != batch:
            self._bound[place].load(self._feeds[batch])
            self._holds[place] = batch

    def _differences(self, place: int) -> dict[str, float]:
        holds = self._holds[place]
        if holds is None or holds >= len(self._expected):
            return {}
        outputs = self._bound[place].fetch()
        return {name: max_difference(outputs.get(name), value) for name, value in self._expected[holds].items()}


def shifted(feeds: Mapping[str, Array], number: int) -> dict[str, Array] | None:
    """The same images rolled by ``number`` pixels: new to any cache, and no other work. None without a floating image.

    ``number`` counts columns, then rows, so that width x height different inputs come before the first repeats.
    """
    images = {n: v for n, v in feeds.items() if v.ndim >= 3 and np.issubdtype(v.dtype, np.floating)}
    if not images:
        return None
    rolled = {
        name: np.roll(value, (number % value.shape[-1], number // value.shape[-1]), axis=(-1, -2))
        for name, value in images.items()
    }
    return {**feeds, **rolled}
