# Everything is set up here, in virtual environments of this folder; a second run reuses them.
PYTHON ?= python3
NOX := .venv/bin/nox
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: test bench clean

test: $(NOX)  ## lint, types and every test
	$(NOX)

bench: $(NOX)  ## the loss's time and memory on this machine's CPU, beside what else there is
	$(NOX) -s bench

$(NOX): constraints/core.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints/core.txt nox
	touch $(NOX)

clean:
	rm -rf .venv .nox
