# On a machine with Python 3.11+, git and make: `make train` sets everything up and runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= tiny_cpu
OVERRIDES ?=

.PHONY: train test lint smoke methods notebooks pretrain clean

# torch first and alone: a torch that is already in $(VENV) (the build for your card, say) is kept.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# --resume: goes on where a stopped run was, and shows the result of a finished one.
train: $(VENV)/.ready
	$(BIN)/hart-lite train $(RECIPE) $(OVERRIDES) --resume

# A process for each core, with one thread each.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The whole of `make train` at a size that ends within a minute.
smoke: $(VENV)/.ready
	rm -rf runs/smoke
	$(BIN)/hart-lite train tiny_cpu output=runs/smoke stages.0.steps=4 stages.1.steps=4 stages.2.steps=2 data.world.eval_scenes=16

methods: $(VENV)/.ready
	$(BIN)/python -m benchmarks.methods

# Runs the notebooks that are stored with their outputs, and stores them anew.
notebooks: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[notebooks]'
	$(BIN)/python notebooks/store.py notebooks/tour.ipynb notebooks/own_data.ipynb

pretrain: $(VENV)/.ready
	$(BIN)/python -m hart_lite.world.pretrain --out runs/base_model

clean:
	rm -rf $(VENV) runs
