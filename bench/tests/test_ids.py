from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.ids import positions

IDS = st.one_of(st.integers(-5, 40), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**23))


@given(known=st.sets(IDS, max_size=12), wanted=st.lists(IDS, max_size=20), extra=st.integers(0, 11))
def test_positions_are_those_of_a_dictionary(known: set[int], wanted: list[int], extra: int) -> None:
    ordered = sorted(known)
    wanted = wanted + ordered[extra:]
    place = {value: index for index, value in enumerate(ordered)}
    found = positions(np.array(ordered, np.int64), np.array(wanted, np.int64))
    assert found.dtype == np.int32
    assert found.tolist() == [place.get(value, -1) for value in wanted]


def test_ids_far_apart_need_no_table() -> None:
    known = np.array([-(2**62), 0, 2**62], np.int64)
    assert positions(known, np.array([2**62, 5, -(2**62)], np.int64)).tolist() == [2, -1, 0]
