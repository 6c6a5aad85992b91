from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench.errors import InputError
from bench.report.html import render_html
from bench.report.write import write_report
from bench.tests.sample_suite import sample_suite

if TYPE_CHECKING:
    from pathlib import Path


def test_the_page_is_written_into_a_folder_that_is_made(tmp_path: Path) -> None:
    page = write_report(sample_suite(), tmp_path / "new" / "run")
    assert page == tmp_path / "new" / "run" / "index.html"
    assert page.read_text("utf-8") == render_html(sample_suite())
    assert [p.name for p in page.parent.iterdir()] == ["index.html"]


def test_a_folder_that_is_a_file_is_an_input_error_with_its_name_and_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"file.*--out DIR"):
        write_report(sample_suite(), tmp_path / "file")


def test_a_full_disk_leaves_the_older_page_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(sample_suite(), tmp_path)
    before = page.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_report(sample_suite(intervals=True), tmp_path)
    assert page.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


def test_a_read_only_folder_is_an_input_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may write into a read-only folder")
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        write_report(sample_suite(), tmp_path)
