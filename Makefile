# make demo     separates the example song; needs Python 3.11 or later and nothing else
# make install  the same environment with all that works on a CPU, and the development tools
# make test     install, then ruff, mypy and pytest;  make test-long   the few tests that would take it beyond ten minutes
# make library AUDIO=FOLDER   rebuilds the training audio;  make train   trains the shipped model again

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib ft engines export bench || true
EXTRAS := cpu,plots,media,rtx,openvino,train,dev

.PHONY: demo install test pytest test-long lint library train clean

demo: $(VENV)/demo.stamp
	$(BIN)/python -m bench.demo

install: $(VENV)/install.stamp

test: install
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

# Files of tests are shared by two processes; most of the time goes into tracing networks, which takes one core.
pytest: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not long'

test-long: install
	$(BIN)/python -m pytest -m long

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

library: install
	$(BIN)/ft library library --audio $(AUDIO) --sing 60

train: install
	$(BIN)/ft train small

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: $$($(PYTHON) --version) found, Python 3.11 or later needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What pip would compile on one core is compiled on all: where nothing may be written later, each start would do it anew.
# Some packages hold files for other versions of Python, which do not compile.
# One package file per stamp: pip runs again only when what is asked for has changed.
$(VENV)/demo.stamp: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --no-compile -e '.[cpu,plots,media]'
	@$(COMPILE)
	@touch $@

$(VENV)/install.stamp: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --no-compile -c constraints.txt -e '.[$(EXTRAS)]'
	@$(COMPILE)
	@touch $@ $(VENV)/demo.stamp

clean:
	rm -rf $(VENV) build dist *.egg-info separated
