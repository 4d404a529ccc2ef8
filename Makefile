# make demo   set everything up, then decode with the demo model and show the table
# make test   the whole default test suite
# make slow   the tests that need minutes or a large model
# make asan   the native module under AddressSanitizer and UndefinedBehaviorSanitizer
# make tsan   the same under ThreadSanitizer, with 2, 3 and 5 threads
# make lint   ruff, mypy --strict, clang-format, generated parts of documents
# make build  the native module again after a change in csrc/
# make docs   the documentation site, into build/site
# make clean  remove what these made

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*/*)
CPP := $(wildcard csrc/*/*.cpp csrc/*/*.h tests/*/native/*.cpp)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

FETCH := $(BIN)/python -c 'from halfbyte.importers.demo_model import demo_model; demo_model()'

.PHONY: setup build demo test slow asan tsan lint format docs clean

setup: $(VENV)/.halfbyte
	$(FETCH)

build: $(VENV)/.halfbyte

demo: setup
	$(BIN)/halfbyte demo

test: $(VENV)/.halfbyte-test
	$(FETCH)
	$(BIN)/python -m pytest

slow: $(VENV)/.halfbyte-test
	$(BIN)/python -m pytest -m slow

asan: $(VENV)/.halfbyte-test
	VENV=$(VENV) .ci/sanitize address -v $(or $(TESTS),tests/runtime tests/exactness tests/security)

tsan: $(VENV)/.halfbyte-test
	for n in $(or $(THREADS),2 3 5); do \
	    VENV=$(VENV) HALFBYTE_TEST_THREADS=$$n .ci/sanitize thread -v $(or $(TESTS),tests/runtime) || exit 1; done

lint: $(VENV)/.halfbyte-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src benchmarks
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/python -m benchmarks.report --check
	$(BIN)/python docs/cli_reference.py --check docs/cli.md docs/server.md

format: $(VENV)/.halfbyte-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

docs: $(VENV)/.halfbyte-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What pyproject.toml's [build-system] asks for, kept here: in an environment of pip's own, a new one each time, every
# file of csrc/ would be compiled again.
BUILD_TOOLS := 'scikit-build-core>=0.10' 'nanobind>=2.4' $(foreach tool,cmake ninja,$(if $(shell command -v $(tool)),,$(tool)))
$(VENV)/.halfbyte-build: pyproject.toml | $(BIN)/python
	@echo "installing the build tools"
	$(PIP) $(BUILD_TOOLS)
	@touch $@

# The package with its native module; again whenever the C++ or the build files change.
$(VENV)/.halfbyte: $(SOURCES) $(VENV)/.halfbyte-build
	@echo "compiling the native module and installing what it needs: one to three minutes, without a word"
	$(PIP) --no-build-isolation --editable .
	@touch $@

# What the extras need. The package is named, not its directory: it is installed, so nothing is built again.
$(VENV)/.halfbyte-test: $(VENV)/.halfbyte
	@echo "installing what the tests need (torch, lm-evaluation-harness): some minutes the first time"
	$(PIP) 'halfbyte[test]'
	@touch $@

$(VENV)/.halfbyte-docs: $(VENV)/.halfbyte
	$(PIP) 'halfbyte[docs]'
	@touch $@

$(VENV)/.halfbyte-lint: $(VENV)/.halfbyte-test
	$(PIP) 'halfbyte[lint]'
	@touch $@
