from __future__ import annotations

import copy
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from bench.report.html import render_html
from bench.tests.sample_intervals import class_deltas
from bench.tests.sample_suite import HOSTILE, as_reference, make_cell, sample_suite

VOID = {"meta", "br", "link", "input", "img", "hr"}


class Page(HTMLParser):
    """Collects tags and ids, and fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.hrefs: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href"):
                self.hrefs.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {
        "plain": render_html(sample_suite()),
        "intervals": render_html(sample_suite(intervals=True)),
        "hostile": render_html(sample_suite(hostile=True)),
    }


def words(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Page(page).text))


@pytest.mark.parametrize("name", ["plain", "intervals", "hostile"])
def test_tags_match_ids_are_unique_and_every_fragment_exists(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    assert len(page.ids) == len(set(page.ids))
    missing = {h for h in page.hrefs if h.startswith("#")} - {f"#{i}" for i in page.ids}
    assert not missing


@pytest.mark.parametrize("name", ["plain", "intervals", "hostile"])
def test_the_page_is_self_contained_and_below_one_megabyte(pages: dict[str, str], name: str) -> None:
    page = pages[name]
    assert len(page.encode()) < 1_000_000
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:" in page
    outside = [h for h in Page(page).hrefs if not h.startswith(("#", "data:image/jpeg;base64,"))]
    assert outside == []
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "url(" not in page.replace("url(#", "")


def test_text_of_the_suite_comes_out_escaped(pages: dict[str, str]) -> None:
    page = pages["hostile"]
    assert "<script>alert" not in page
    assert Page(page).tags.count("script") == 1
    # In the title of a panel, in the standard error of a lane, in a reason, in the command, in figures.
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;amp;$\\frac{1}{2}$") >= 6
    assert HOSTILE.split("'")[0] in words(page)


def test_text_inside_a_figure_is_escaped_and_never_read_as_mathematics() -> None:
    suite = sample_suite()
    suite["cells"] = [
        as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0)),
        make_cell("m", "<b>$x^2$</b>", "fp32", delta=0.0, ratio=2.0),
    ]
    page = render_html(suite)
    assert ">&lt;b&gt;$x^2$&lt;/b&gt; fp32</text>" in page


def test_a_model_name_may_break_at_its_underscores_in_the_matrix_and_stays_escaped() -> None:
    suite = sample_suite()
    model = suite["cells"][0]["cell"]["model"]
    for cell in suite["cells"]:
        if cell["cell"]["model"] == model:
            cell["cell"]["model"] = "a_pose<i>_x"
    page = render_html(suite)
    assert "a_<wbr>pose&lt;i&gt;_<wbr>x<small>" in page
    assert "pose<i>" not in page


def test_the_same_suite_gives_the_same_bytes(pages: dict[str, str]) -> None:
    assert render_html(copy.deepcopy(sample_suite())) == pages["plain"]


def test_another_process_with_another_environment_gives_the_same_bytes(pages: dict[str, str], tmp_path: Any) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 40\nlines.linewidth: 9\n", encoding="utf-8")
    code = (
        "import sys; from bench.report.html import render_html; from bench.tests.sample_suite import sample_suite;"
        "sys.stdout.buffer.write(render_html(sample_suite()).encode())"
    )
    environment = {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path), "TZ": "Asia/Tokyo", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=60)
    assert done.stdout.decode() == pages["plain"]


def test_without_intervals_the_page_says_so_and_draws_no_bars(pages: dict[str, str]) -> None:
    text = words(pages["plain"])
    assert "ΔAP, no interval yet" in text
    assert "no interval yet" in text.split("fastest that is still the same")[1][:120]
    assert "shown, not judged" in text
    assert "Points have no bars: this file has no intervals yet." in text
    assert "Intervals none in this file" in text
    assert "[95 % interval]" not in text


def test_with_intervals_the_page_draws_them(pages: dict[str, str]) -> None:
    text = words(pages["intervals"])
    assert "ΔAP [95 % interval]" in text
    assert "[2.26, 2.36]" in text
    assert "no interval yet" not in text
    assert "Bars are 95 % intervals" in text
    assert "Resolvable against margin" in text
    assert "600 shapes images resolve every margin set for yolov10n." in text


def test_sections_without_fields_are_one_line_each(pages: dict[str, str]) -> None:
    text = words(pages["plain"])
    assert "Left out: this file has no intervals over images" in text
    assert "Left out: this file has no differences by class." in text


def test_an_emulated_cell_shows_no_latency_and_no_ratio() -> None:
    suite = sample_suite()
    cell = make_cell("m", "onnxrt", "fp16", delta=0.0, ratio=1.0)
    cell["observed"].update(emulated=True, precision="fp32")
    cell["speed"].update(verdict="emulated", ratio=77.77, fps=876.5)
    cell["speed"]["latency_ms"]["p50"] = 55.55
    cell["speed"]["end_to_end_ms"]["p50"] = 66.66
    suite["cells"] = [as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0)), cell]
    text = words(render_html(suite))
    assert "emulated, so fp16 has no speed here" in text
    for number in ("77.8", "77.77", "55.5", "55.6", "66.7", "876", "877"):
        assert number not in text


def test_a_lost_precision_is_marked_and_an_emulated_one_is_not(pages: dict[str, str]) -> None:
    text = words(pages["plain"])
    assert "bf16 → fp32" in text
    assert (
        pages["plain"].count('failed"><svg class="g" aria-hidden="true"><use href="#g-failed"/></svg>bf16 → fp32') == 2
    )
    assert "</svg>fp16 → fp32" not in pages["plain"]


def test_a_failed_cell_is_explained_with_comparison_lane_and_images(pages: dict[str, str]) -> None:
    text = words(pages["plain"])
    assert "boxes at IoU 0.99 prediction 312 / 3,120 largest inf, 9 not finite" in text
    assert "stage first inference" in text
    assert "11 (SIGSEGV)" in text
    assert "node /fuse/Resize_f16" in text
    assert "missed, was .81" in text
    assert "now ring .58" in text
    assert "extra plate .37" in text
    assert pages["plain"].count("data:image/jpeg;base64,") == 1
    assert pages["plain"].count('<use href="#thumb-0"') == 2


def test_a_thumbnail_that_is_no_base64_is_not_drawn() -> None:
    suite = sample_suite()
    failed = next(cell for cell in suite["cells"] if cell["flips"])
    failed["flips"][0]["thumb"] = 'AAAA" onload="alert(1)'
    page = render_html(suite)
    assert "onload" not in page
    assert "data:image" not in page


def test_many_failed_cells_with_large_thumbnails_stay_below_one_megabyte() -> None:
    suite = sample_suite()
    failed = next(cell for cell in suite["cells"] if cell["flips"])
    suite["cells"] = [as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0))]
    for number in range(24):
        cell = copy.deepcopy(failed)
        cell["cell"].update(model="m", backend=f"backend{number}")
        cell["flips"] = [{**failed["flips"][0], "thumb": f"{number:02d}{place}A" * 4000} for place in range(4)]
        suite["cells"].append(cell)
    page = render_html(suite)
    assert len(page.encode()) < 1_000_000
    for number in range(24):
        assert f"{number:02d}0A{number:02d}0A" in page, "every cell keeps its worst image"


def test_a_page_with_everything_at_once_stays_below_one_megabyte() -> None:
    suite = sample_suite()
    failed = next(cell for cell in sample_suite(intervals=True)["cells"] if cell["flips"])
    names = tuple(f"class number {i:02d}" for i in range(80))
    suite["cells"] = [as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0))]
    for number in range(24):
        cell = copy.deepcopy(failed)
        cell["cell"].update(model="m", backend=f"backend{number}")
        cell["flips"] = [{**failed["flips"][0], "thumb": f"{number:02d}{place}A" * 4000} for place in range(4)]
        cell["accuracy"]["per_class"] = class_deltas(-0.02, 0.01, names, moved=3)
        suite["cells"].append(cell)
    assert len(render_html(suite).encode()) < 1_000_000


def test_a_suite_without_cells_still_renders() -> None:
    suite = sample_suite()
    suite["cells"] = []
    text = words(render_html(suite))
    assert "No candidate was compared." in text
    assert "Nothing was timed." in text


def test_numbers_that_are_not_finite_are_words() -> None:
    suite = sample_suite()
    cell = make_cell("m", "onnxrt", "fp32", "failed", delta=0.0, ratio=1.0)
    cell["accuracy"].update(delta="nan", margin="inf")
    cell["accuracy"]["stats"]["AP"] = "nan"
    cell["speed"]["latency_ms"].update(p50="inf")
    cell["speed"].update(ratio="-inf", rounds=[{"samples_ms": ["nan", "inf"]}])
    suite["cells"] = [as_reference(make_cell("m", "torch", "fp32", delta=0.0, ratio=1.0)), cell]
    text = words(render_html(suite))
    assert "nan" in text
    assert "−inf" in text


def test_every_status_has_a_glyph_and_a_word(pages: dict[str, str]) -> None:
    for word in ("passed", "failed", "error", "undecided", "waived", "skipped", "unsupported", "reference"):
        assert (
            f'class="v {word}"><svg class="g" aria-hidden="true"><use href="#g-{word}"/></svg>{word}' in pages["plain"]
        )


def test_tables_have_captions_and_headers_have_scopes(pages: dict[str, str]) -> None:
    page = pages["plain"]
    assert page.count("<table") == page.count("<caption")
    heads = re.findall(r"<th\b[^>]*>", page)
    assert heads
    assert all("scope=" in head for head in heads)
    regions = re.findall(r"<div[^>]*role=\"region\"[^>]*>", page)
    assert all('tabindex="0"' in region and "aria-label=" in region for region in regions)


def test_an_interrupted_run_says_so() -> None:
    suite = {**sample_suite(), "interrupted": True, "exit_code": 130}
    assert "The run was interrupted ; finished cells are shown." in words(render_html(suite))


def test_a_run_that_ended_early_says_why() -> None:
    suite = {**sample_suite(), "aborted": "a.png: not an image.", "exit_code": 2}
    assert "The run ended early: a.png: not an image. Finished cells are shown." in words(render_html(suite))
