from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from bench.report.terminal import print_table
from bench.tests.sample_suite import HOSTILE, sample_suite

SNAPSHOT = """\
Still the same model in 4 of 16 cells. 2 failed, 1 error, 5 undecided, 1 waived, 3 did not run.
Fastest that is still the same:
  fastestdet  none: no candidate is both the same and faster
              The fastest that is the same, onnxrt fp32, runs at 1.01× the speed of torch fp32.
  yolov10n    openvino fp32  1.54× torch fp32  AP  0.000, no interval yet
              Faster, not yet judged: openvino int8 at 2.31×, AP −0.002.

fastestdet on coco128-val, 128 images, reference AP 0.2837, latency in ms
Cell           Verdict        ΔAP      Speed      p50   p90  Ran
─────────────────────────────────────────────────────────────────────
torch fp32     · reference     0       1×        9.84  10.3  fp32
onnxrt fp32    ✓ passed        0.0000  1.01×     9.74  10.2  fp32
onnxrt fp16    ∅ unsupported  no fp16 Resize                 none
onnxrt int8    ⚑ waived       −0.0061  0.48×     20.5  21.5  int8
openvino fp32  ✓ passed        0.0000  0.97×     10.1  10.7  fp32
openvino fp16  ! error        SIGSEGV                        none
openvino bf16  ✕ failed       −0.0004  1.10×     8.95  9.39  fp32 ✕
openvino int8  ? undecided    +0.0003  1.02×     9.65  10.1  int8
trt fp16       – skipped      no GPU on host                 none

yolov10n on shapes, 600 images, reference AP 0.7118, latency in ms
Cell           Verdict        ΔAP      Speed      p50   p90  Ran
─────────────────────────────────────────────────────────────────────
torch fp32     · reference     0       1×        41.8  43.9  fp32
torch bf16     ? undecided    −0.0005  1.21×     34.5  36.3  bf16
onnxrt fp32    ✓ passed        0.0000  1.42×     29.4  30.9  fp32
onnxrt fp16    ? undecided    −0.0004  emulated              emulated
onnxrt int8    ✕ failed       −0.0186  0.62×     67.4  70.8  int8
openvino fp32  ✓ passed       +0.0001  1.54×     27.1  28.5  fp32
openvino fp16  ? undecided    −0.0004  emulated              emulated
openvino int8  ? undecided    −0.0024  2.31×     18.1  19.0  int8
trt fp16       – skipped      no GPU on host                 none

Needs a person
  ✕ failed     fastestdet openvino bf16    Requested bf16, observed fp32: this processor has no bf16
                                           kernels.
  ✕ failed     yolov10n onnxrt int8        Non-finite scores in 3 of 600 images; the worst image
                                           misses 3 of 5 boxes.
  ! error      fastestdet openvino fp16    Killed by SIGSEGV (signal 11) in the first inference, 0.6
                                           s after load.
  ? undecided  fastestdet openvino int8    128 images cannot decide a margin of 0.0030.
  ? undecided  yolov10n torch bf16,        ΔAP is shown, not judged: a lower precision needs an
               onnxrt fp16,                interval over images, which this run does not have.
               openvino fp16,
               openvino int8

Latency is one whole-graph step on resident inputs. Speeds have no interval yet and are not judged.
Reference torch fp32 on cpu. Run 20260814-0210-3f9c1ab, 41 min.
Report reports/x/index.html
Exit 1: something failed.
"""


INTERVALS = """\
openvino int8  ? undecided    −0.0021 [−0.0078, +0.0036]  1.02× [1.00, 1.04]  9.65  10.1  int8
trt fp16       – skipped      no GPU on host                                              none

yolov10n on shapes, 600 images, reference AP 0.7118, latency in ms
Cell           Verdict        ΔAP [95 %]                  Speed [95 %]         p50   p90  Ran
──────────────────────────────────────────────────────────────────────────────────────────────────
torch fp32     · reference     0                          1×                  41.8  43.9  fp32
torch bf16     ✕ failed       +0.0061 [+0.0047, +0.0075]  1.21× [1.18, 1.24]  34.5  36.3  bf16
onnxrt fp32    ✓ passed        0.0000 [−0.0003, +0.0003]  1.42× [1.39, 1.45]  29.4  30.9  fp32
onnxrt fp16    ✓ passed       −0.0004 [−0.0018, +0.0010]  emulated                        emulated
onnxrt int8    ✕ failed       −0.0186 [−0.0214, −0.0158]  0.62× [0.61, 0.63]  67.4  70.8  int8
openvino fp32  ✓ passed       +0.0001 [−0.0002, +0.0004]  1.54× [1.51, 1.57]  27.1  28.5  fp32
openvino fp16  ? undecided    −0.0035 [−0.0049, −0.0021]  emulated                        emulated
openvino int8  ✓ passed       −0.0024 [−0.0052, +0.0004]  2.31× [2.26, 2.36]  18.1  19.0  int8
trt fp16       – skipped      no GPU on host                                              none

Needs a person
  ✕ failed     fastestdet openvino bf16  Requested bf16, observed fp32: this processor has no bf16
                                         kernels.
  ✕ failed     yolov10n torch bf16       Suspicious: gains 0.0061 AP, [+0.0047, +0.0075], more than
                                         the margin of 0.0036: the same model does not gain. Look
                                         for leaked ground truth, other images or another protocol.
  ✕ failed     yolov10n onnxrt int8      Non-finite scores in 3 of 600 images; the worst image
                                         misses 3 of 5 boxes.
  ! error      fastestdet openvino fp16  Killed by SIGSEGV (signal 11) in the first inference, 0.6 s
                                         after load.
  ? undecided  fastestdet openvino int8  128 images cannot decide a margin of 0.0030: ΔAP [−0.0078,
                                         +0.0036]. About 5,200 would, if the delta holds.
  ? undecided  yolov10n openvino fp16    600 images cannot decide a margin of 0.0036: ΔAP [−0.0049,
                                         −0.0021]. The delta sits at the margin; more images are
                                         unlikely to decide.

Lower precisions
  fastestdet onnxrt int8: slower than fp32 in the same runtime, 0.48× [0.47, 0.48] its speed.
  yolov10n onnxrt int8: slower than fp32 in the same runtime, 0.44× [0.43, 0.44] its speed.

Timing: 20 rounds in 4 openings, 2 tagged (other load, cpu steal and low clock). Speed undecided:
fastestdet openvino fp32, fastestdet openvino int8. Latency is one whole-graph step on resident
inputs. pycocotools 2.0.11 re-scored fastestdet onnxrt fp32 on 128 images: agrees, largest
difference 1.1e−16. pycocotools 2.0.11 re-scored yolov10n torch bf16 on 600 images: identical,
largest difference 0.0. Reference torch fp32 on cpu. Run 20260814-0210-3f9c1ab, 41 min.
Report reports/x/index.html
Exit 1: something failed.
"""


class Stream(io.StringIO):
    """A stream with an encoding of its own."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


def printed(suite: dict[str, Any], *, width: int = 100, encoding: str = "utf-8", terminal: bool = True,
            report_path: str | None = "reports/x/index.html") -> str:  # fmt: skip
    stream = Stream(encoding)
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_table(suite, console, report_path)
    return stream.getvalue()


def test_the_table_at_100_columns_is_this() -> None:
    assert printed(sample_suite()) == SNAPSHOT


@pytest.mark.parametrize("options", [{}, {"intervals": True}, {"hostile": True}])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_wider_than_the_terminal_or_100_columns(options: dict[str, bool], width: int) -> None:
    lines = printed(sample_suite(**options), width=width, report_path=None).splitlines()
    assert max(map(len, lines)) <= min(width, 100)


def test_a_pipe_gets_100_columns_whatever_its_width() -> None:
    assert printed(sample_suite(), width=80, terminal=False) == SNAPSHOT


def test_without_utf8_everything_is_ascii_and_still_aligned() -> None:
    text = printed(sample_suite(), encoding="latin-1")
    assert text.isascii()
    assert "x failed " in text
    assert "+ passed " in text
    assert "-0.0186" in text
    assert [len(line) for line in text.splitlines()] == [len(line) for line in SNAPSHOT.splitlines()]


def test_intervals_stand_beside_their_numbers() -> None:
    text = printed(sample_suite(intervals=True))
    assert "ΔAP [95 %]" in text
    assert "2.31× [2.26, 2.36]" in text
    assert "no interval yet" not in text
    assert INTERVALS in text


def test_the_highest_percentile_stands_beside_the_median_and_the_table_stays_within_100_columns() -> None:
    suite = sample_suite(intervals=True)
    for cell in suite["cells"]:
        if cell["speed"]:
            cell["speed"]["latency_ms"]["p99"] = 12.3
    text = printed(suite)
    assert "p50   p99  Ran" in text
    assert "p90" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_wide_numbers_cost_columns_and_not_the_width() -> None:
    suite = sample_suite(intervals=True)
    for cell in suite["cells"]:
        if cell["speed"] and cell["speed"]["ratio_ci95"]:
            cell["speed"].update(ratio=123.45, ratio_ci95=[100.0, 1234.5])
    lines = printed(suite).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("123.45× [100.00, 1,234.50]" in line for line in lines)


def test_many_undecided_speeds_are_counted() -> None:
    suite = sample_suite(intervals=True)
    for cell in suite["cells"]:
        if cell["speed"] and cell["role"] == "candidate" and not cell["observed"]["emulated"]:
            cell["speed"]["verdict"] = "undecided"
    assert "Speed undecided: 10 cells." in " ".join(printed(suite).split())


def test_models_that_were_timed_differently_are_told_apart() -> None:
    suite = sample_suite(intervals=True)
    for cell in suite["cells"]:
        if cell["speed"] and cell["cell"]["model"] == "yolov10n":
            cell["speed"].update(rounds_run=60, noise={}, rounds=[])
    text = " ".join(printed(suite).split())
    assert "20 rounds in 4 openings, 2 tagged (other load, cpu steal and low clock) (fastestdet); " in text
    assert "60 rounds in 4 openings, none tagged (yolov10n)." in text


def test_a_run_without_a_cross_check_says_so() -> None:
    suite = sample_suite(intervals=True)
    for cell in suite["cells"]:
        if cell["accuracy"]:
            cell["accuracy"]["cross_check"] = None
    assert "No cell was scored again by an independent scorer." in " ".join(printed(suite).split())


def test_colour_is_only_ever_added_to_words() -> None:
    stream = Stream("utf-8")
    print_table(sample_suite(), Console(file=stream, width=100, force_terminal=True, color_system="standard"))
    assert "\x1b[" in stream.getvalue()
    assert "✕ failed" in stream.getvalue()


def test_control_characters_and_markup_of_the_suite_are_not_obeyed() -> None:
    suite = sample_suite()
    for cell in suite["cells"]:
        if cell["status"] == "failed":
            cell["reason"] = "[bold]\x1b[2J\x07bad[/bold]"
    text = printed(suite)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]" in text
    assert HOSTILE.split("'")[0] in printed(sample_suite(hostile=True))


def test_a_run_without_cells_prints_its_answer() -> None:
    text = printed({**sample_suite(), "cells": [], "exit_code": 3}, report_path=None)
    assert text.startswith("No candidate was compared.")
    assert text.endswith("Exit 3: nothing failed, but something is undecided or no candidate ran.\n")
