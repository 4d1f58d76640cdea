# Two commands for newcomers: `make bench` and `make test`. Both make .venv, install Motley into it and run.
# A stamp in .venv says what was installed; it is older than a changed source, so that changes are installed anew.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
	$(shell find src native -type f ! -name '*.pyc' ! -name '*.so' 2>/dev/null)

.PHONY: bench test clean

bench: $(VENV)/installed
	$(VENV)/bin/motley bench

test: $(VENV)/installed-for-tests
	$(RUN) -m pytest -n 2 --no-loadscope-reorder

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check .
	touch $@

# By the name of what is installed, which pip finds satisfied: only the extra's packages come, and nothing is built again.
$(VENV)/installed-for-tests: $(VENV)/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check "motley-moe[test]"
	touch $@

clean:
	rm -rf $(VENV) build
