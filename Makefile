# Everything is set up here, in virtual environments of this folder; a second run reuses them as they are.
PYTHON ?= python3
NOX := .venv/bin/nox
SETTINGS := pyproject.toml noxfile.py otr_autoload.pth $(wildcard constraints/*.txt)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: quickstart test bench clean

quickstart: .nox/ready-axolotl  ## a small model learns a new skill in the real Axolotl, by SFT and by OTR
	@.nox/axolotl/bin/python -m benchmarks quickstart

test: .nox/ready-test  ## lint, types, and every test in every environment
	$(NOX) -R

bench: $(NOX)  ## the loss's time and memory on this machine's CPU, beside what else there is
	$(NOX) -s bench

.nox/ready-test: $(SETTINGS) $(NOX)
	$(NOX) --install-only
	touch $@

.nox/ready-axolotl: $(SETTINGS) $(NOX)
	$(NOX) --install-only -s axolotl
	touch $@

$(NOX): constraints/core.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints/core.txt nox
	touch $@

clean:
	rm -rf .venv .nox
