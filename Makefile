# Everything installs into .venv; nothing outside it but Debian's Slurm for the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint chaos chaos-full install install-test slurm clean

help:
	@echo "make demo   install, then train the embedded task on this machine"
	@echo "make test   install, then all tests, on a real Slurm started for them"
	@echo "make lint   ruff and pyright"
	@echo "make chaos  20 faults over one run on a virtual cluster; chaos-full: every one (two hours)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

# torch comes by its pinned version first: resolved with the rest, pip may take a CUDA build.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[offline,tensorboard,test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed $(VENV)/.installed-test: $(VENV)/.torch

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

# Without root or apt the tests on a real Slurm are skipped; in CI that is a failure.
slurm: install-test
	PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m slurm.cluster install || [ -z "$$CI" ]

demo: install
	$(BIN)/python launch/submit.py --executor local --task demo --model tiny \
	    --procs-per-node 2 --wait

# Tests on Slurm mostly wait: two files at a time, those on Slurm first.
test: install-test slurm
	PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m pytest -n 2 --dist loadfile \
	    --no-loadscope-reorder

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

chaos: install-test slurm
	PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m tests.slurm.chaos random --faults 20

chaos-full: install-test slurm
	PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/python -m tests.slurm.chaos full

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
