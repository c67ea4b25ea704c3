# make demo   sets everything up and trains configs/tiny.py on real text
# make test   the same for the tests
# make lint   format and lint checks
# make bench  the speed of a training step, part by part

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/tiny
ARGS ?=
PY = $(VENV)/bin/python

.PHONY: demo test lint bench clean

demo: $(VENV)/.moejax
	$(PY) -m moejax.main --config=configs/tiny.py --workdir=$(WORKDIR) $(ARGS)

test: $(VENV)/.moejax-test
	$(PY) -m pytest $(ARGS)

lint: $(VENV)/.moejax-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(VENV)/.moejax
	$(PY) -m moejax.cli.bench $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info

# With uv where it is, else with venv and pip. Bytecode is compiled at once:
# TensorFlow and JAX take 15 seconds to import without it.
define install
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "make needs Python 3.11, 3.12 or 3.13 (TensorFlow Text has no wheel for others yet): make PYTHON=python3.13 ..."; exit 1; }
	@if command -v uv >/dev/null; then \
	  { test -x $(PY) || uv venv -q --python $(PYTHON) $(VENV); } && \
	  uv pip install -q --compile-bytecode --python $(PY) -e '.$(1)'; \
	else \
	  { test -x $(PY) || $(PYTHON) -m venv $(VENV); } && \
	  $(PY) -m pip install -q --disable-pip-version-check -e '.$(1)'; \
	fi
	@touch $@
endef

$(VENV)/.moejax: setup.cfg
	$(call install,)

$(VENV)/.moejax-test: setup.cfg
	$(call install,[test])
	@touch $(VENV)/.moejax
