# The two commands: `make demo` and `make test`. Each sets up .venv from the locks in envs/ first.
PYTHON ?= python3
BIN := .venv/bin
CORES ?= all

.PHONY: demo test lint bench bench-large clean lock
.DEFAULT_GOAL := demo

.venv/.installed: envs/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/.installed-dev: .venv/.installed envs/requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r envs/requirements-dev.txt
	touch $@

# From nothing to the accuracy table of the embedded benchmark and its figures, and the report.
demo: .venv/.installed
	$(BIN)/snakemake --cores $(CORES)
	$(BIN)/snakemake --report report.html
	@cat results/ViT-Nano/finetuned/demo8/summary.md

test: .venv/.installed-dev
	$(BIN)/python -m pytest

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

# Merging against a straightforward implementation (half an hour on two cores), evaluation against the
# bare forward pass (four minutes), the Fisher log-trace of ViT-Nano against a backward pass per example
# (two minutes), models that are merged anew for every input against merging one by one (three minutes),
# similarities of all pairs of models against pair after pair (four minutes), the search of a linear probe
# against one candidate after another (two minutes), and what the workflow adds to the demo.
bench: .venv/.installed-dev
	$(BIN)/python tests/benchmarks/bench_merge.py
	$(BIN)/python tests/benchmarks/bench_merge.py --encoder ViT-L-14 --experts 20 --layers 2
	$(BIN)/python tests/benchmarks/bench_evaluation.py
	$(BIN)/python tests/benchmarks/bench_log_trace.py
	$(BIN)/python tests/benchmarks/bench_adaptive.py
	$(BIN)/python tests/benchmarks/bench_similarity.py
	$(BIN)/python tests/benchmarks/bench_probe.py
	$(BIN)/python tests/benchmarks/bench_overhead.py

# 24 GiB of experts in a few hundred MiB of memory; needs 30 GiB of disk.
bench-large: .venv/.installed-dev
	$(BIN)/python tests/benchmarks/bench_merge.py --encoder ViT-L-14 --experts 20 --alone

# Resolves envs/requirements*.in anew and rewrites every file of pins.
lock:
	$(PYTHON) envs/render.py --lock

# Removes what the default configuration made, and every log, cache and record. Shards and checkpoints
# that you put under the roots, and results of other configurations, stay.
clean: .venv/.installed
	$(BIN)/snakemake --delete-all-output --quiet
	rm -rf cache logs benchmarks .snakemake report.html
