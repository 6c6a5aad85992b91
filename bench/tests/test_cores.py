import os
import subprocess
import sys

import pytest

from bench import cores
from bench.cores import shareable_cores, stay_on, usable_cores
from bench.engine import protocol_of
from bench.errors import Unavailable
from bench.matrix import Request


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host of some cores, whose top frequencies in kHz are told, or None."""

    def build(top_khz):
        monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(top_khz))
        for core, khz in top_khz.items():
            folder = tmp_path / f"cpu{core}" / "cpufreq"
            folder.mkdir(parents=True)
            if khz is not None:
                (folder / "cpuinfo_max_freq").write_text(f"{khz}\n")
        return tmp_path

    return build


@pytest.mark.parametrize(
    ("top_khz", "expected"),
    [
        ({0: None, 1: None}, (0, 1)),
        ({3: None, 1: None, 2: None}, (1, 2, 3)),
        ({0: 5_100_000, 1: 5_000_000, 2: 3_800_000, 3: 3_800_000}, (0, 1)),
        ({0: 5_100_000, 1: None}, (0,)),
        ({0: None}, ()),
        ({0: 5_100_000}, ()),
    ],
)
def test_fast_cores_are_shared_where_there_is_a_choice(host, top_khz, expected):
    assert shareable_cores(1, system=host(top_khz)) == expected


def test_the_kernel_places_lanes_of_several_threads(host):
    assert shareable_cores(2, system=host({0: None, 1: None, 2: None})) == ()


def test_a_system_that_cannot_be_told_shares_nothing(monkeypatch):
    monkeypatch.delattr(cores.os, "sched_getaffinity")
    assert shareable_cores(1) == ()


def test_a_frequency_that_is_no_number_counts_as_none(host, tmp_path):
    system = host({0: None, 1: None})
    (tmp_path / "cpu0" / "cpufreq" / "cpuinfo_max_freq").write_text("<unknown>\n")
    assert shareable_cores(1, system=system) == (0, 1)


THREADS = """
import os, sys, threading
from pathlib import Path
from bench.cores import stay_on

def where(seen):
    seen.append(os.sched_getaffinity(threading.get_native_id()))

waiting, go, early, late = threading.Event(), threading.Event(), [], []
before = threading.Thread(target=lambda: (waiting.set(), go.wait(), where(early)))
before.start()
waiting.wait()
stay_on((int(sys.argv[1]),))
go.set()
before.join()
after = threading.Thread(target=where, args=(late,))
after.start()
after.join()
print(os.sched_getaffinity(0), early[0], late[0])
"""


@pytest.mark.parametrize("core", usable_cores())
def test_threads_that_are_there_and_threads_that_come_stay_on_the_core(core):
    done = subprocess.run([sys.executable, "-c", THREADS, str(core)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{{{core}}}"] * 3


def test_a_refusal_of_the_kernel_is_typed_and_names_the_cores(monkeypatch):
    def refuse(thread, wanted):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cores.os, "sched_setaffinity", refuse)
    with pytest.raises(Unavailable, match=r"cores \[0, 1\]: Operation not permitted"):
        stay_on((1, 0))


def test_a_thread_that_ends_meanwhile_is_passed_over(monkeypatch, tmp_path):
    moved = []

    def move(thread, wanted):
        if thread == 7:
            raise ProcessLookupError(3, "No such process")
        moved.append((thread, wanted))

    for thread in (7, 8, 9):
        (tmp_path / "self" / "task" / str(thread)).mkdir(parents=True)
    monkeypatch.setattr(cores.os, "sched_setaffinity", move)
    stay_on((1,), proc=tmp_path)
    assert sorted(moved) == [(8, (1,)), (9, (1,))]


def test_this_process_may_run_somewhere():
    assert set(usable_cores()) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("cores", "said"), [((0, 1), "all lanes on the CPU on one core"), ((), "as the kernel places")]
)
def test_the_result_file_says_how_lanes_were_placed(monkeypatch, cores, said):
    asked = []
    monkeypatch.setattr("bench.engine.shareable_cores", lambda threads: asked.append(threads) or cores)
    assert protocol_of(Request(threads=3), [])["cores"].startswith(said)
    assert asked == [3]
