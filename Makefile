# demo and test work from an empty clone with python3 and pip; a second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-gpu check bench clean
demo: .venv/.ready          ## run the main job for one model on the built-in fixtures
	@$(BIN)/parity run --models yolov10n; code=$$?; [ $$code -eq 0 ] || [ $$code -eq 3 ] || exit $$code

test: check .venv/.trt-wheels ## lint, import contracts, types, tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile bench/tests adapters fixtures
	$(BIN)/pytest suites --max-images 40 --rounds 4

test-gpu: .venv/.ready      ## what needs a CUDA device; skipped tests say what is missing
	$(BIN)/pytest -m gpu

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: .venv/.ready         ## ratios measured side by side (not part of test): 80 minutes; with QUICK=--quick 3
	$(BIN)/python -m benchmarks $(QUICK)

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# NVIDIA's bindings alone (2.6 MB, no TensorRT), and cuda-bindings: the contract tests read their names. Never installed.
TRT_CONTRACT := bench/tests/trt_contract
.venv/.trt-wheels: .venv/.ready $(wildcard $(TRT_CONTRACT)/*.txt)
	for list in bindings-10 bindings-11 cuda; do $(BIN)/pip download --quiet --no-deps --only-binary :all: --require-hashes \
		--dest .venv/trt-wheels --requirement $(TRT_CONTRACT)/$$list.txt || exit 1; done
	@touch $@

clean:
	rm -rf .venv build *.egg-info
