"""How fast is it? The samples of the interleaved rounds, replayed into pytest-benchmark."""

import os

import pytest

from bench.pytest_session import ReplayClock, replay

CLOCK = ReplayClock()


@pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="speed is not timed under xdist: lanes would overlap")
@pytest.mark.benchmark(timer=CLOCK)
def test_speed(cell_result, benchmark, request):
    replay(request, cell_result, benchmark, CLOCK)
