"""The first call of TensorRT in a child: crashes, hangs and refusals become a reason."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.errors import Unavailable
from bench.testing.trt_fake import fake_tensorrt, versions
from bench.tests.trt_contract import stubs
from bench.trt import guard


def refusal(*words, timeout_s=30.0):
    with pytest.raises(Unavailable) as caught:
        guard.first_call(words, timeout_s=timeout_s)
    return str(caught.value)


def python(code):
    return (sys.executable, "-c", code)


def child_of(folder, body):
    """The real child over a package ``tensorrt`` with this text."""
    (folder / "tensorrt.py").write_text(body)
    return python(
        f"import sys; sys.path.insert(0, {str(folder)!r}); from bench.trt.guard import main; sys.exit(main())"
    )


def test_a_child_that_segfaults_is_a_reason_and_not_our_end():
    text = refusal(*python("import ctypes; ctypes.string_at(0)"))
    assert text.startswith("trt: the library crashed (SIGSEGV) at its first call, in a child process")


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_what_it_said_before_it_crashed_is_kept(stream):
    """TensorRT's logger writes to stdout."""
    code = f"import ctypes, sys; print('CUDA initialization failure with error: 35', file=sys.{stream}, flush=True); "
    assert "error: 35" in refusal(*python(code + "ctypes.string_at(0)"))


def test_an_answer_that_is_followed_by_a_crash_is_a_crash():
    """The lean runtime of 11.4 returns an object and dies when it ends."""
    code = """import ctypes; print('{"version": "11.4.0.106"}', flush=True); ctypes.string_at(0)"""
    assert "crashed (SIGSEGV)" in refusal(*python(code))


@pytest.mark.skipif("gcc" in (stubs.why_not() or ""), reason="needs gcc")
def test_a_library_whose_runtime_ends_in_a_segmentation_fault_is_survived(tmp_path):
    """A shared object that crashes where TensorRT does, behind a package of its name: the real child, a real signal."""
    (tmp_path / "crash.c").write_text("int crash(void) { volatile int *nothing = 0; return *nothing; }\n")
    library = tmp_path / "libcrash.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "crash.c")], check=True)
    body = f"""
import ctypes
__version__ = "11.4.0.106"
class Logger:
    ERROR = 1
    def __init__(self, severity): pass
class Runtime:
    def __init__(self, logger): pass
    def __del__(self): ctypes.CDLL({str(library)!r}).crash()
"""
    assert "crashed (SIGSEGV)" in refusal(*child_of(tmp_path, body))


def test_a_failure_is_asked_once_too(tmp_path):
    """Five precisions on a library that hangs must not wait five times."""
    count = tmp_path / "count"
    words = python(f"open({str(count)!r}, 'a').write('x'); import sys; sys.exit(3)")
    for _ in range(3):
        refusal(*words)
    assert count.read_text() == "x"


def test_a_child_that_hangs_is_ended():
    text = refusal(*python("import time; time.sleep(60)"), timeout_s=0.5)
    assert "did not answer its first call within 0.5 s" in text


def test_a_package_that_cannot_be_loaded_says_why(tmp_path):
    text = refusal(*child_of(tmp_path, "raise ImportError('libnvinfer.so.11: cannot open shared object file')"))
    assert "cannot be loaded: libnvinfer.so.11" in text


def test_a_child_that_ends_with_a_status_says_its_last_words():
    text = refusal(*python("import sys; sys.stderr.write('no such luck'); sys.exit(7)"))
    assert "ended with status 7" in text
    assert "no such luck" in text


def test_a_child_that_says_nothing_is_no_answer():
    assert "ended with status 0" in refusal(*python("pass"))


def test_a_program_that_is_not_there_says_so():
    assert "cannot be started" in refusal("/nowhere/python")


def test_the_version_comes_back_through_the_chatter_of_the_library(tmp_path):
    body = """
__version__ = "10.16.1.11"
class Logger:
    ERROR = 1
    def __init__(self, severity): print("[I] hello")
class Runtime:
    def __init__(self, logger): pass
"""
    assert guard.first_call(child_of(tmp_path, body)) == "10.16.1.11"


@pytest.mark.parametrize("version", versions())
def test_fake_the_child_makes_one_runtime_and_destroys_it(version):
    world = fake_tensorrt(version)
    assert guard.make_runtime(world.module) == {"version": version}
    assert "Runtime" in world.destroyed


@pytest.mark.parametrize("answer", [None, TypeError("factory function returned nullptr")])
def test_fake_a_runtime_that_is_not_made_is_a_problem(answer):
    world = fake_tensorrt("11.4.0.106")
    world.answer("Runtime", answer)
    assert "makes no runtime" in guard.make_runtime(world.module)["problem"]
