# make demo    16 labelled street scenes with the embedded model, in demo/
# make test    the test suite, as continuous integration runs it
# make lint    ruff and mypy
# make docs    docs/cli.md from the commands' own help
# make wheel   dist/*.whl and dist/*.tar.gz
# make gpu-check  engines, figures and tests of a machine with a CUDA device, in runs/gpu (docs/gpu.md)
# make clean   remove everything the other targets made
#
# Needs Python 3.11 or newer: `make PYTHON=python3.12 test` picks one. On a machine without an NVIDIA GPU,
# `make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` avoids the CUDA libraries.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# What pytest gets beside its settings in pyproject.toml, e.g. `make test ARGS="-k labelmap"`.
ARGS ?=
# Folder of the results of gpu-check.
OUT ?= runs/gpu

.PHONY: demo test lint docs wheel gpu-check clean

demo: $(VENV)/core.stamp
	$(BIN)/dgkit generate demo --count 16 --style-mix uniform
	@echo "Contact sheet: $(CURDIR)/demo/contact_sheet.png"

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/dev.stamp
	$(BIN)/python -m typer dgkit.cli.app utils docs --name dgkit --title 'Command line' --output docs/cli.md

wheel: $(VENV)/dev.stamp
	$(BIN)/python -m build --outdir dist .

# With the Python that has a CUDA build of torch, not with the environment in .venv.
gpu-check:
	$(PYTHON) benchmarks/gpu/check.py --out $(OUT) $(ARGS)

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "dgkit needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Type: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than what it was installed from, so a second run installs nothing.
$(VENV)/core.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[cpu,int8,rtx,ray,dev,seg]'
	@# The packages of seg bring opencv-python, which overwrites the files of the headless one; see docs/install.md.
	$(BIN)/python -m pip uninstall --quiet --yes opencv-python opencv-python-headless
	$(INSTALL) --no-deps opencv-python-headless
	@touch $@ $(VENV)/core.stamp
