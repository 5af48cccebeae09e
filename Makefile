# Everything runs in .venv, made here from requirements.lock. Needs only python3 >= 3.11 and make.
PYTHON ?= python3
# Test processes at once.
JOBS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq

.PHONY: demo test lint docs peers clean

demo: .venv/.installed
	$(BIN)/python -m benchmarks demo

# Each process has half of the files, and what it compiled for one test serves the next; who is done first takes over.
test: .venv/.installed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The manual, build/docs/index.html. A warning, such as a link that leads nowhere, is an error.
docs: .venv/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

peers: .venv/.peers

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis benchmarks/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("elbo needs Python 3.11 or later")'
	$(PYTHON) -m venv .venv
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps -e .
	@touch $@

.venv/.docs: .venv/.installed
	$(PIP) install -c requirements.lock -e '.[docs]'
	@touch $@

# The lock holds jax and the rest where they are.
.venv/.peers: .venv/.installed
	$(PIP) install -c requirements.lock -e '.[peers]'
	@touch $@
