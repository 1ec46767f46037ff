# make demo    16 labelled street scenes with the embedded model, in demo/
# make test    the test suite, as continuous integration runs it
# make lint    ruff (rules and format), mypy and codespell
# make docs    docs/reference/cli.md, generated from the help texts of the commands
# make docs-site  the documentation site in build/site; open build/site/index.html
# make wheel   dist/*.whl and dist/*.tar.gz
# make gpu-check  does dgkit work on this machine's CUDA device? 3 minutes; SIZE=speed: how fast is it? 10 minutes;
#              writes runs/gpu (docs/guides/gpu.md)
# make clean   remove what the other targets wrote
#
# Needs Python 3.11 or newer: `make PYTHON=python3.12 test` picks one. On a machine without an NVIDIA GPU,
# `make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` avoids the CUDA libraries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Further arguments of pytest, e.g. `make test ARGS="-k labelmap"`.
ARGS ?=
# Processes that run tests: a number, or `logical` for one per core.
WORKERS ?= logical
# Output folder and size of gpu-check: quick or speed.
OUT ?= runs/gpu
SIZE ?= quick

.PHONY: demo test lint docs docs-site wheel gpu-check clean

demo: $(VENV)/core.stamp
	$(BIN)/dgkit generate demo --count 16 --style-mix uniform
	@echo "Contact sheet: $(CURDIR)/demo/contact_sheet.png"

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/dev.stamp
	$(BIN)/python -m typer dgkit.cli.app utils docs --name dgkit --title 'Command line' --output docs/reference/cli.md

docs-site: $(VENV)/dev.stamp docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Documentation: $(CURDIR)/build/site/index.html"

wheel: $(VENV)/dev.stamp
	$(BIN)/python -m build --outdir dist .

# Uses the Python that has a CUDA build of torch, not the environment in .venv.
gpu-check:
	$(PYTHON) benchmarks/gpu/check.py --out $(OUT) --size $(SIZE) $(ARGS)

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "dgkit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Type: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than the files that were installed, so a second run installs nothing.
$(VENV)/core.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[cpu,int8,modelopt,rtx,ray,dev,seg,imagenet]'
	@# The packages of seg bring opencv-python, which overwrites the files of the headless one; see docs/start/install.md.
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless
	$(INSTALL) --no-deps opencv-python-headless
	@# Types of TensorRT, without TensorRT itself, which they depend on and which needs NVIDIA's package index.
	$(INSTALL) --no-deps tensorrt-stubs
	@touch $@ $(VENV)/core.stamp
