# `make demo` and `make test` need Python 3.10 to 3.13, git and make; the rest they install into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint lock help

help:  ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: $(READY)  ## pretrain an encoder on the synthetic phantom, in minutes
	$(BIN)/python -m monai.bundle run --config_file bundles/simclr/configs/train.json

test: $(READY)  ## the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

lint: $(READY)  ## ruff, check and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lock: $(READY)  ## resolve requirements.lock, and requirements-extras.lock beyond it, anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
	  --no-annotate --no-header --no-emit-index-url --upgrade -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra fl --extra mlflow --universal --python-version 3.10 \
	  --no-annotate --no-header --no-emit-index-url -c requirements.lock | grep -vxFf requirements.lock > requirements-extras.lock
	$(BIN)/uv pip compile pyproject.toml --group serving --constraint requirements.lock --universal --python-version 3.10 \
	  --no-annotate --no-header --no-emit-index-url -o cxrmonai/deploy/serving/requirements.txt

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(None if (3, 10) <= sys.version_info < (3, 14) else 'Python 3.10 to 3.13 is needed; name one with: make PYTHON=python3.12 …')"
	$(PYTHON) -m venv $(VENV) || { echo 'error: no virtual environment could be made; on Debian and Ubuntu install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --system-certs --python $(BIN)/python --no-deps -r requirements.lock
	$(BIN)/uv pip install --system-certs --python $(BIN)/python --no-deps -e .
	touch $@
