"""Is it the same model? Preprocessed tensors, raw outputs and detections of every cell."""

from bench.pytest_session import judge


def test_parity(cell_result, request):
    judge(request, cell_result, "parity")
