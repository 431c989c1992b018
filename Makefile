# Two commands matter: make demo (from images to new images) and make test. Each makes its own environment first.
#   make test PYTHON=python3.13 VENV=.venv-3.13   uses another Python.
PYTHON ?= python3
VENV ?= .venv
UV_VERSION = 0.13.9
AUDIT_VERSION = 2.10.1
WORKDIR ?= runs/demo
export UV_LINK_MODE ?= copy
# Else every process compiles what it imports, where PYTHONDONTWRITEBYTECODE is set: 3 to 4 seconds each.
export UV_COMPILE_BYTECODE ?= 1

SIDE_BY_SIDE = -n logical --dist loadfile --no-loadscope-reorder
CONTRACTS = tests/autoencoders/test_contract.py tests/priors/test_contract.py tests/quantizers/test_quantizers.py \
  tests/test_golden.py tests/test_launch.py tests/test_bad_input.py

.PHONY: demo test thorough brief check bench accelerator accelerator-data audit requirements clean help

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/demo.done  ## train the demo on OpenMoji drawings and sample new ones; the pictures are in runs/demo
	$(VENV)/bin/python launch.py --config=configs/openmoji_hierarchical.py --workdir=$(WORKDIR)

test: $(VENV)/test.done  ## all tests but those that take long and seldom find what the others do not
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not thorough" $(ARGS)

thorough: $(VENV)/test.done  ## those tests: whole recipes of each kind, several hosts, every config at full size
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m thorough $(ARGS)

brief: $(VENV)/test.done  ## the demo in small, contracts and command lines: make brief PYTHON=python3.13 VENV=.venv-3.13
	rm -rf $(VENV)/demo
	$(VENV)/bin/python launch.py --config=configs/openmoji_hierarchical.py:tiny --workdir=$(VENV)/demo
	$(VENV)/bin/python -m pytest $(SIDE_BY_SIDE) $(CONTRACTS) $(ARGS)

check: $(VENV)/test.done  ## style and types
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

bench: $(VENV)/test.done  ## how fast the parts are; beside PyTorch with REFERENCE=PATH, a checkout of the reference
	$(VENV)/bin/python benchmarks/speed.py $(if $(REFERENCE),--reference=$(REFERENCE)) $(ARGS)

accelerator: $(VENV)/demo.done  ## is this accelerator right, how fast is it: nine minutes, results in runs/accelerator
	$(VENV)/bin/python benchmarks/accelerator.py --minutes=9 --output=runs/accelerator $(ARGS)

accelerator-data: $(VENV)/demo.done  ## pack what the same needs without a network; REFERENCE=DIR, PYTORCH=PATH
	$(VENV)/bin/python benchmarks/accelerator_data.py $(if $(REFERENCE),--reference=$(REFERENCE)) $(if $(PYTORCH),--pytorch=$(PYTORCH)) $(ARGS)

$(VENV)/bin/uv:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 15) and "Python 3.11 to 3.14 is needed, %s is %d.%d; say which one: make $(MAKECMDGOALS) PYTHON=python3.13" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/demo.done: requirements-demo.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install -q -p $(VENV)/bin/python -r requirements-demo.txt
	@touch $@

$(VENV)/test.done: requirements.txt | $(VENV)/bin/uv
	$(VENV)/bin/uv pip install -q --no-deps -p $(VENV)/bin/python -r requirements.txt
	@touch $@

audit: $(VENV)/bin/uv  ## known vulnerabilities of the pinned packages; fails where one could not be looked up
	$(VENV)/bin/uv tool run pip-audit==$(AUDIT_VERSION) --strict -r requirements.txt --no-deps --disable-pip

requirements: $(VENV)/bin/uv  ## pin what requirements*.in ask for
	for f in requirements requirements-demo; do \
	  echo "huggingface-hub ; python_version < '3'" | $(VENV)/bin/uv pip compile -q --upgrade --universal --override=- \
	    --python-version 3.11 --no-annotate --no-header $$f.in -o $$f.txt && \
	  sed -i "1i # Made by \`make requirements\` from $$f.in: Python 3.11 to 3.14." $$f.txt; done

clean:  ## environments, caches and runs
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache runs
