# Everything is set up here, in virtual environments of this folder; a second run reuses them as they are.
PYTHON ?= python3
NOX := .venv/bin/nox
READY := .nox/ready
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: test bench clean

test: $(READY)  ## lint, types, and every test in every environment
	$(NOX) -R

bench: $(NOX)  ## the loss's time and memory on this machine's CPU, beside what else there is
	$(NOX) -s bench

$(READY): pyproject.toml noxfile.py otr_autoload.pth $(wildcard constraints/*.txt) $(NOX)
	$(NOX) --install-only
	touch $(READY)

$(NOX): constraints/core.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints/core.txt nox
	touch $(NOX)

clean:
	rm -rf .venv .nox
