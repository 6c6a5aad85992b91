import math

import pytest

from bench.errors import ContractError
from bench.nodetimes import MAX_ROWS, checked, summarise
from bench.types import CONVERSION, NodeTime


def node(name, operator, ms, precision="fp32"):
    return NodeTime(name=name, operator=operator, ms=ms, precision=precision)


def test_nothing_said_is_nothing_shown():
    assert summarise(()) is None


def test_operators_are_summed_by_precision_and_the_slowest_come_first():
    found = summarise(
        [node("q", "QuantizeLinear", 0.5, CONVERSION), node("a", "Conv", 1.0), node("b", "Conv", 2.0, "int8"),
         node("c", "Conv", 3.0)]
    )  # fmt: skip
    assert [(o.operator, o.precision, o.nodes, o.ms) for o in found.operators] == [
        ("Conv", "fp32", 2, 4.0), ("Conv", "int8", 1, 2.0), ("QuantizeLinear", CONVERSION, 1, 0.5)
    ]  # fmt: skip
    assert found.total_ms == 6.5
    assert found.nodes == 4
    assert [row.name for row in found.slowest] == ["c", "b", "a", "q"]


def test_the_fp32_node_of_the_same_name_stands_beside_each():
    found = summarise([node("a", "QLinearConv", 1.0, "int8"), node("new", "Sigmoid", 0.4)], [node("a", "Conv", 0.7)])
    assert {row.name: row.fp32_ms for row in found.slowest} == {"a": 0.7, "new": None}


def test_nodes_of_one_name_are_one_row_and_stay_two_in_the_count():
    found = summarise([node("a", "Conv", 1.0), node("a", "Reorder", 0.25, CONVERSION)])
    assert [(row.name, row.operator, row.ms) for row in found.slowest] == [("a", "Conv", 1.25)]
    assert found.nodes == 2


def test_rows_are_capped_and_the_total_is_of_all():
    found = summarise([node(f"n{i}", f"Op{i}", 1.0 + i) for i in range(3 * MAX_ROWS)])
    assert len(found.operators) == len(found.slowest) == MAX_ROWS
    assert found.total_ms == sum(1.0 + i for i in range(3 * MAX_ROWS))
    assert found.slowest[0].name == f"n{3 * MAX_ROWS - 1}"


@pytest.mark.parametrize("ms", [math.nan, math.inf, -0.1])
def test_a_time_that_cannot_be_is_refused_by_name(ms):
    with pytest.raises(ContractError, match=r"'bad' \(Conv\)"):
        checked([node("good", "Conv", 1.0), node("bad", "Conv", ms)])
    assert checked([node("good", "Conv", 0.0)])[0].name == "good"
