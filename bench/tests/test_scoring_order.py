from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.scoring.kernels import descending_order

VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, 5e-324, -5e-324, np.nextafter(0.5, 1), 1.7976931348623157e308]),
)


@given(st.lists(VALUES, max_size=40), st.randoms(use_true_random=False))
def test_it_is_numpys_stable_order_of_the_negated_values(values: list[float], random: object) -> None:
    column = np.array(values, np.float64)
    rows = np.arange(len(values))
    random.shuffle(rows)  # type: ignore[attr-defined]
    rows = rows[: max(0, len(rows) - 3)]
    expected = rows[np.argsort(-column[rows], kind="stable")]
    assert descending_order(rows, column).tolist() == expected.tolist()


def test_many_equal_values_keep_their_order() -> None:
    column = np.repeat(np.array([0.25, 0.75, 0.25, 0.5]), 1000)
    rows = np.random.default_rng(0).permutation(len(column))
    expected = rows[np.argsort(-column[rows], kind="stable")]
    assert (descending_order(rows, column) == expected).all()
