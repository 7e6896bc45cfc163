# demo   train an xLSTM and an LSTM on the Python manual and compare them (about three minutes)
# test   the tests
# test-all  the tests, then those of the adapters, inside neuralforecast, gluonts and sktime (environments in .adapters)
# test-sets  the tests once per instruction set of the kernels that this processor runs, and once without the kernels
# check  format, lint, types, then the tests: what a change must pass
# fix    format and repair what ruff can repair
# bench  the timings of docs/benchmarks.md, a quarter of an hour (own environment in .bench); ARGS=--quick: a few, unwritten
# gpu    on a machine with a GPU: the laws and all tests that need one, then some under compute-sanitizer where it is
# oracles  compare with the published packages, live (makes its own environments)
# Every target first sets up .venv by itself.

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.exgate
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# One thread per worker: two workers with two threads each are slower than two with one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: demo test test-all test-sets check fix bench gpu oracles clean

demo: $(STAMP)
	@$(BIN)/exgate demo

test: $(STAMP)
	@$(PYTEST)

test-all: test
	@bash tests/adapters/run.sh

test-sets: $(STAMP)
	@set -e; for name in $$($(BIN)/python -c 'from exgate.ops import native; print(*native.usable(), "none")'); do \
		echo "== instruction set $$name"; $(PYTEST) --instruction-set $$name; \
	done

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	@$(PYTEST)

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@bash benchmarks/run.sh $(ARGS)

# Triton warns of a default that will change (FP_FUSION), and warnings are errors in tests.
GPU_PYTEST := TRITON_DEFAULT_FP_FUSION=1 $(BIN)/python -m pytest -q -m gpu

gpu: $(STAMP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
		|| { echo "PyTorch sees no GPU here: 'make test' runs the same laws in Triton's interpreter." >&2; exit 1; }
	@$(GPU_PYTEST)
	@tool=$$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1); \
	if [ -z "$$tool" ]; then echo "compute-sanitizer is not installed: races and bounds were not checked"; exit 0; fi; \
	set -e; for check in memcheck racecheck; do \
		echo "== compute-sanitizer --tool $$check"; \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 TRITON_DEFAULT_FP_FUSION=1 "$$tool" --tool $$check --error-exitcode 1 \
			$(BIN)/python -m pytest -q -m gpu -x --timeout 1800 tests/ops/test_contract.py \
			-k 'triton and (equals_reference or reset) and (bfloat16 or float32)'; \
	done

oracles: $(STAMP)
	@bash tests/oracles/run.sh

clean:
	rm -rf .venv .bench .bench-gpu .oracles .adapters build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone: it decides the platform (CPU or CUDA), the rest follows.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard exgate/ops/*.h exgate/ops/*.cpp exgate/ops/*/*.h exgate/ops/*/*.cpp)
	@set -e; python=; \
	for p in python3 python3.11 python3.12 python3.13 python; do \
		if command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "exgate needs Python 3.11 or newer, and found none among python3, python3.11, python3.12, python3.13." >&2; exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "setting up .venv with $$($$python --version) (a minute or more; 1 GB, more where pip picks a CUDA build of torch)"; \
		rm -rf .venv; \
		$$python -m venv .venv || { echo "This Python cannot make environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi; \
	echo "  installing torch ..."; $(PIP) torch; \
	echo "  installing exgate and the tools of its tests ..."; $(PIP) -e '.[dev,text,plot,log,forecast]'; \
	touch $(STAMP)
