# Everything is set up here, in virtual environments of this folder; a second run reuses them as they are.
PYTHON ?= python3
NOX := .venv/bin/nox
SETTINGS := pyproject.toml noxfile.py otr_autoload.pth $(wildcard constraints/*.txt)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

SESSIONS := axolotl core models trl-1.9 benchmarks llamafactory trl swift lint  # the longest first
IN_AXOLOTLS := models trl-1.9 benchmarks  # sessions that run in its environment
# Where make can, each session's output is shown whole, when it has ended.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: quickstart test bench clean
.SECONDARY: $(filter-out $(IN_AXOLOTLS:%=.nox/ready-%),$(SESSIONS:%=.nox/ready-%))

quickstart: .nox/ready-axolotl  ## a small model learns a new skill in the real Axolotl, by SFT and by OTR
	@.nox/axolotl/bin/python -m benchmarks quickstart

test:  ## lint, types, and every test in every environment, two environments at a time
	$(MAKE) --jobs=2 --keep-going $(SYNC) $(SESSIONS:%=test-%)

# Two at a time would wait for each other's threads.
test-%: export OMP_NUM_THREADS = 1
test-%: .nox/ready-%  ## one environment's tests
	$(NOX) -R -s $*

$(IN_AXOLOTLS:%=test-%): .nox/ready-axolotl
	$(NOX) -R -s $(@:test-%=%)

bench: $(NOX)  ## the loss's time and memory on this machine's CPU, beside what else there is
	$(NOX) -s bench

.nox/ready-%: $(SETTINGS) $(NOX)
	$(NOX) --install-only -s $*
	touch $@

$(NOX): constraints/core.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints/core.txt nox
	touch $@

clean:
	rm -rf .venv .nox
