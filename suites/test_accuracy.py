"""Does it find the same things? AP of every cell against its reference."""

from bench.pytest_session import judge


def test_accuracy(cell_result, request):
    judge(request, cell_result, "accuracy")
