# Each session of noxfile.py gets a virtual environment in .nox/, made when it is first needed and kept until
# `make clean`, or until a file that it depends on changes. `make help` lists the targets.
PYTHON ?= python3
NOX := .venv/bin/nox
SETTINGS := pyproject.toml noxfile.py otr_autoload.pth $(wildcard locks/*.txt)
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# The slowest first, so that two at a time end together.
SESSIONS := axolotl core models trl-1.9 benchmarks packaging llamafactory trl swift docs lint
HOSTS := axolotl llamafactory trl swift
# These run in Axolotl's environment and have none of their own.
IN_AXOLOTLS := models trl-1.9 benchmarks packaging
WITH_ENVIRONMENT := $(filter-out $(IN_AXOLOTLS),$(SESSIONS))

# Print a session's output when the session has ended, rather than mixed with the other session's. make 3 cannot.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: quickstart features engines faults gpu test fuzz fuzz-python soak docs bench lock audit clean help $(SESSIONS:%=test-%)

quickstart: .nox/ready-axolotl  ## train a small model in the real Axolotl, by SFT and by OTR, and compare
	@.nox/axolotl/bin/python -m benchmarks quickstart

# Each environment has other hosts; results that are there are not run again.
features: $(HOSTS:%=.nox/ready-%)  ## run every feature of the hosts with OTR and without, and keep which agree
	@for host in $(HOSTS); do .nox/$$host/bin/python -m benchmarks features || exit 1; done

# Each environment has other hosts; results that are there are not run again.
faults: $(HOSTS:%=.nox/ready-%)  ## kill the hosts' runs at random moments, fill their disk, take their memory, and keep the results
	@for host in $(HOSTS); do OMP_NUM_THREADS=1 .nox/$$host/bin/python -m benchmarks faults || exit 1; done

test:  ## run lint, types and all tests, two sessions at a time
	$(MAKE) --jobs=2 --keep-going $(SYNC) $(SESSIONS:%=test-%)

# Two sessions on two cores: with more threads each, they would wait for each other.
$(SESSIONS:%=test-%): export OMP_NUM_THREADS = 1

$(WITH_ENVIRONMENT:%=test-%): test-%: .nox/ready-%
	$(NOX) -R -s $*

$(IN_AXOLOTLS:%=test-%): test-%: .nox/ready-axolotl
	$(NOX) -R -s $*

# Every host is searched, also after a failure in one.
fuzz: $(HOSTS:%=.nox/ready-%)  ## search for recipes that a host reads otherwise than a person, with MINUTES=10 for so long
	@failed=; for host in $(HOSTS); do \
	  OMP_NUM_THREADS=1 .nox/$$host/bin/python -m benchmarks.fuzz $$host --keep $(MINUTES:%=--minutes %) || failed=1; \
	done; test -z "$$failed"

# In environments of its own: each host's with DeepSpeed, and Axolotl's with Ray, too.
engines: $(NOX)  ## train with DDP, FSDP, ZeRO and Ray on two processes, and compare with one; it resumes
	OMP_NUM_THREADS=1 $(NOX) -s engines

fuzz-python: .nox/ready-axolotl  ## search for calls of otr_loss and uses of attach whose result is wrong, for an hour
	OMP_NUM_THREADS=1 .nox/axolotl/bin/python -m benchmarks.fuzz_python --minutes $(or $(MINUTES),60) --keep

SOAKED := trl llamafactory
soak: $(SOAKED:%=.nox/ready-%)  ## 20,000 steps in two hosts, with OTR and without: do memory, time or metrics drift
	@for host in $(SOAKED); do \
	  OMP_NUM_THREADS=1 .nox/$$host/bin/python -m benchmarks soak $$host --keep || exit 1; \
	done

docs: .nox/ready-docs  ## build the documentation into site/ and check its links
	$(NOX) -R -s docs

bench: .nox/ready-trl  ## measure the loss's time and memory on this machine's CPU; TRL's fused head is a contender
	.nox/trl/bin/python -m benchmarks loss

# An environment of its own, made by pip alone: a machine with a GPU may have no network. WHEELS=folder installs from that
# folder, which needs only what requirements.txt names; packages of contenders.txt that it lacks are listed as such.
gpu: .nox/ready-gpu  ## everything that only a GPU can tell, in 40 minutes; it resumes; SMALL=1: toy sizes, on any CPU
	.nox/gpu/bin/python -m benchmarks gpu $(if $(SMALL),--small)

.nox/ready-gpu: benchmarks/gpu/requirements.txt benchmarks/gpu/contenders.txt
	$(PYTHON) -m venv --clear .nox/gpu
	$(PIP_GPU) -r benchmarks/gpu/requirements.txt
	.nox/gpu/bin/python -m pip freeze > .nox/gpu/installed.txt
	@while read package; do $(PIP_GPU) --constraint .nox/gpu/installed.txt "$$package" \
	  || echo "gpu: $$package is not installed; the page will say so"; done < benchmarks/gpu/contenders.txt
	touch $@

PIP_GPU = .nox/gpu/bin/python -m pip install --quiet $(if $(WHEELS),--no-index --find-links $(WHEELS))

lock: $(NOX)  ## write locks/ after a change of pyproject.toml; versions stay as they are
	$(NOX) -s lock

audit: $(NOX)  ## look up known vulnerabilities of every locked package; needs the network
	$(NOX) -s audit

.nox/ready-%: $(SETTINGS) $(NOX)
	$(NOX) --install-only -s $*
	touch $@

$(NOX): locks/nox.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --require-hashes --no-deps -r locks/nox.txt
	touch $@

clean:  ## delete the environments and the built documentation
	rm -rf .venv .nox .cache site

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /make \1:	/p' Makefile | expand -t 20
	@echo "make test-SESSION:  run one session's tests; SESSION is one of"
	@echo "                    $(SESSIONS)"
