# What CI runs and what a developer runs: the same words.
#
#   make demo        the shipped model, exported and run in every precision: out/demo. About four
#                    minutes on two idle cores; before the first, 1.2 GB go into .venv
#   make test        the fast tests
#   make test-slow   all tests but those for GPUs
#   make test-gpu    the tests for machines with CUDA; they need no network
#   make check       format, lint, types and the site
#   make docs        the site, which opens from its files: site/index.html
#   make fuzz        damaged and odd input, seeded: about 9 minutes on two cores
#   make bench       every benchmark but that of GPUs, one after the other
#
# Each sets up .venv first if need be: the demo only what it needs, the others all.
# PYTHON=python3.13 chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin
DEMO := .venv/demo
INSTALLED := .venv/installed
DEMO_EXTRAS := cpu,export
EXTRAS := cpu,openvino,export,report,serve,tensorrt-rtx,docs,dev

.PHONY: demo test test-slow test-gpu check docs fuzz bench
.DELETE_ON_ERROR:

demo: $(DEMO)
	$(BIN)/pitstop demo --out out/demo

test: $(INSTALLED)
	$(BIN)/pytest -n auto -m "not slow and not gpu"

test-slow: $(INSTALLED)
	$(BIN)/pytest -n auto -m "not gpu"

test-gpu: $(INSTALLED)
	$(BIN)/python -c "import sys; from pitstop.runtime.machine.driver import why_no_gpu; sys.exit(why_no_gpu())"
	$(BIN)/pytest -m gpu tests/gpu

check: $(INSTALLED)
	mkdir -p .types && ln -sfn .. .types/pitstop
	$(BIN)/python tests/mend_tensorrt_stubs.py .types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) docs

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/python tests/check_site.py site

fuzz: $(INSTALLED)
	$(BIN)/python benchmarks/fuzz.py $(if $(SEED),--seed $(SEED))

bench: $(INSTALLED)
	set -e; for script in $(filter-out $(addprefix benchmarks/,gpu.py fuzz.py damage.py record.py calls.py serve.py serve_soak.py),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script; done

# PyTorch goes first and by its pin: a package that asks for "any torch" would bring the newest one
# with gigabytes of CUDA libraries. tensorrt-stubs, which mypy reads, asks for TensorRT itself: it goes
# in without.
$(DEMO): setup.cfg pyproject.toml constraints.txt
	@echo "Sets up .venv for the demo: PyTorch for CPUs, ONNX and ONNX Runtime, 1.2 GB on disk."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(DEMO_EXTRAS)]'
	touch $@

$(INSTALLED): $(DEMO)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps tensorrt-stubs
	touch $@
