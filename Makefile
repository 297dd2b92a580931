# make demo   set up, baseline against TIME on built-in videos and images, build the report (about 8 minutes on 2 cores)
# make test   set up, run the tests
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help demo test check example study clean

help:
	@sed -n '1,2s/^# //p' Makefile

# Made again only when the dependencies change; the stamp is written last, so a broken set-up is repeated.
.venv/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The images train on the core that the videos leave idle; the same command again says what came of them.
demo: .venv/.stamp
	@$(BIN)/python -m bench.sweep sweeps/demo_images.yaml > /dev/null & images=$$!; \
	echo "$(BIN)/python -m bench.sweep sweeps/demo.yaml"; \
	$(BIN)/python -m bench.sweep sweeps/demo.yaml; videos=$$?; \
	wait $$images && exit $$videos
	$(BIN)/python -m bench.sweep sweeps/demo_images.yaml
	$(BIN)/python -m reports.build

test: .venv/.stamp
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test
	$(BIN)/python -m pytest -m 'slow or slurm'

# The README's pictures and tables, and the rows that they follow from.
example: .venv/.stamp
	$(BIN)/python -m bench.sweep sweeps/compute.yaml --set 'seeds=[0,1,2,3,4]'
	$(BIN)/python -m bench.sweep sweeps/backbones.yaml --set 'seeds=[0,1,2]'
	$(BIN)/python -m bench.sweep sweeps/ablation.yaml --set 'seeds=[0,1,2]'
	$(BIN)/python -m bench.sweep sweeps/background.yaml --set 'seeds=[0,1,2]'
	$(BIN)/python -m bench.results --rows reports/example/rows.jsonl.gz
	$(BIN)/python -m reports.build --out reports/example

# The same questions at scale study (docs/results.md says how long it takes, and on what).
study: .venv/.stamp
	$(BIN)/python -m bench.sweep sweeps/backbones.yaml --scale study --runs runs/study
	$(BIN)/python -m bench.sweep sweeps/ablation.yaml --scale study --runs runs/study
	$(BIN)/python -m bench.results --rows reports/study/rows.jsonl.gz runs/study
	$(BIN)/python -m reports.build --runs runs/study --out reports/study

clean:
	rm -rf runs data reports/out .pytest_cache .ruff_cache .mypy_cache .hypothesis
