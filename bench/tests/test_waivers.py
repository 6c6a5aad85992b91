import datetime

import pytest

from bench.errors import InputError
from bench.waivers import find_waiver, read_waivers

GOOD = """
[[waiver]]
cell = "yolov10n-openvino-*-int8-*"
check = "accuracy"
reason = "low-precision transforms, upstream bug"
expires = 2026-12-31
"""


def write(tmp_path, text):
    path = tmp_path / "waivers.toml"
    path.write_text(text)
    return path


def test_a_waiver_holds_for_its_cells_its_check_and_until_its_date(tmp_path):
    waivers = read_waivers(write(tmp_path, GOOD))
    cell = "yolov10n-openvino-cpu-int8-shapes-b1"
    last = datetime.date(2026, 12, 31)
    assert find_waiver(waivers, cell, "accuracy", last) is waivers[0]
    assert find_waiver(waivers, cell, "accuracy", last + datetime.timedelta(days=1)) is None
    assert find_waiver(waivers, cell, "parity", last) is None
    assert find_waiver(waivers, cell.replace("int8", "fp16"), "accuracy", last) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('check = "accuracy"', 'check = "acuracy"', "check must be one of"),
        ("expires = 2026-12-31", 'expires = "2026-12-31"', "must be a date"),
        ("expires = 2026-12-31", "", "needs exactly"),
        ('reason = "low-precision transforms, upstream bug"', 'reason = " "', "reason must be a text"),
        ("[[waiver]]", "[waiver]", r"\[\[waiver\]\] tables"),
        ("[[waiver]]", "[[waivers]]", r"\[\[waiver\]\] tables"),
        ("[[waiver]]", "[[", "not TOML"),
    ],
)
def test_a_malformed_waiver_is_refused_by_place(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(InputError, match=message):
        read_waivers(write(tmp_path, GOOD.replace(old, new)))
