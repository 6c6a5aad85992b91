import os
import signal
import time

import psutil
import pytest

from bench.errors import LaneError, UsageError
from bench.lanes import Lane, LaneFailure, Limits


@pytest.fixture
def lane(tmp_path):
    opened = Lane(name="test", log=tmp_path / "lane.log", limits=Limits(silence_s=20))
    yield opened
    opened.kill()


def test_a_lane_answers_and_ends(lane):
    version, answers = lane.call("probe", backend="trt", pairs=[("cpu", "fp32")])
    assert version == ""
    assert answers[("cpu", "fp32")][0] in ("Unavailable", "Unsupported")
    lane.close()
    assert not psutil.pid_exists(lane.pid)
    lane.close()


def test_a_failure_of_ours_keeps_its_type_and_message(lane):
    with pytest.raises(UsageError, match="unknown backend 'nothing'"):
        lane.call("probe", backend="nothing", pairs=[])


def test_a_foreign_failure_names_its_type(lane):
    with pytest.raises(LaneError, match="TypeError"):
        lane.call("probe", wrong=1)


def test_a_killed_lane_names_signal_stage_and_log(lane):
    os.kill(lane.pid, signal.SIGKILL)
    with pytest.raises(LaneFailure, match=r"SIGKILL \(signal 9\) in probe.*lane\.log") as caught:
        lane.call("probe", backend="trt", pairs=[])
    assert caught.value.failure.signal == "SIGKILL (signal 9)"
    assert caught.value.short == "SIGKILL"


def test_a_silent_lane_is_killed_and_says_so(tmp_path):
    with Lane(name="hang", log=tmp_path / "l.log", limits=Limits(silence_s=1.0)) as lane:
        os.kill(lane.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(LaneFailure, match="Hung in probe: no answer for 1 s"):
            lane.call("probe", backend="trt", pairs=[])
        assert time.monotonic() - start < 10
        assert not psutil.pid_exists(lane.pid) or psutil.Process(lane.pid).status() == psutil.STATUS_ZOMBIE


def test_a_lane_that_outgrows_its_memory_is_killed_and_the_limit_named(tmp_path):
    with Lane(name="big", log=tmp_path / "l.log", limits=Limits(silence_s=20, memory_gb=0.001)) as lane:
        while lane.rss_bytes() < 4 * 2**20:
            time.sleep(0.01)
        os.kill(lane.pid, signal.SIGSTOP)  # so that it is seen before it answers
        with pytest.raises(LaneFailure, match=r"Ran out of memory in probe: .* limit 0\.0 GB"):
            lane.call("probe", backend="trt", pairs=[])


def test_the_stderr_of_a_crash_is_kept(tmp_path):
    with Lane(name="x", log=tmp_path / "l.log", limits=Limits(silence_s=20)) as lane:
        lane.call("probe", backend="trt", pairs=[])
        os.kill(lane.pid, signal.SIGSEGV)
        with pytest.raises(LaneFailure, match="SIGSEGV") as caught:
            lane.call("probe", backend="trt", pairs=[])
    assert "Segmentation fault" in caught.value.failure.stderr_tail
