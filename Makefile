# The supported targets; "make help" lists them.
.DEFAULT_GOAL := help
BIN := .venv/bin
UNIT := tests/unit tests/test_layering.py tests/test_docs.py tests/test_packaging.py tests/test_setup.py
ROWS := tests/attack tests/fault tests/conformance
# Tests also wait, for other programs and for clocks: three at once keep two processors busy.
WORKERS := $(shell expr $$(nproc) \* 3 / 2)
# Guest tests look for what a build leaves behind, by its user: for several at once, root makes several.
GUEST_WORKERS := $(shell [ "$$(id -u)" -eq 0 ] && echo $(WORKERS) || echo 1)
FUZZ := tests/attack/test_mutation.py tests/fault/test_update_faults.py tests/unit/imgbuilder/catalog/test_simplestreams.py \
	$(addprefix tests/unit/imgindex/test_,parse.py write.py clearsign.py)

# Without compiled tests, each run of pytest compiles all of them in each worker.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-long deb container picture check lint unit rows guest bench fuzz format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install what is missing: packages (as root on Debian) and the virtual environment .venv
	@scripts/setup

demo:  ## make, publish and sign a Debian template, and build an image with nginx from it
	@scripts/setup run
	@examples/demo

test: check rows guest  ## set up and run all tests; the guest tests take minutes under emulation

test-long:  ## the slow and rare tests too: all templates and examples, SELinux, kills at every system call; hours under emulation
	PYBUILDER_TEST_LONG=1 $(MAKE) test

check:  ## lint, types, layering, documentation, and the unit tests
	@$(MAKE) --no-print-directory --jobs=2 lint unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	scripts/plain-english

unit: setup
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -q --durations=10 $(UNIT)

rows: setup  ## only the attacks, the faults, and the comparisons with virt-builder
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -q --durations=10 $(ROWS)

guest: setup  ## only the tests with a real appliance and a real Debian guest
	$(BIN)/pytest -v --durations=25 -n $(GUEST_WORKERS) --dist loadfile --no-loadscope-reorder tests/guest

bench: setup  ## compare with virt-builder: the same lists, templates and operations, in turn
	$(BIN)/python -m tests.bench.listing
	$(BIN)/python -m tests.bench.compare
	$(BIN)/python -m tests.bench.cachework
	$(BIN)/python -m tests.bench.updates
	$(BIN)/python -m tests.bench.publishing
	$(BIN)/python -m tests.bench.scale
	$(BIN)/python -m tests.bench.cluster
	$(BIN)/python -m tests.bench.library

fuzz: setup  ## 200,000 examples for each reader, 100,000 changed signed indexes, 100,000 faults of servers, 5,000 filesystems; hours
	PYBUILDER_EXAMPLES=200000 PYBUILDER_MUTANTS=100000 PYBUILDER_FAULTS=100000 $(BIN)/pytest -n 2 -q $(FUZZ)
	PYBUILDER_EXAMPLES=5000 $(BIN)/pytest -n 2 -q tests/unit/imgbuilder/appliance/hostside/test_mutated.py

deb:  ## build the Debian packages in dist/, for the distribution of this machine
	@scripts/deb

container:  ## build the container image virt-pybuilder, with podman or docker
	@engine=$$(command -v podman || command -v docker) || { \
		echo "container: neither podman nor docker is installed; run: sudo apt install podman" >&2; exit 1; }; \
	"$$engine" build --tag virt-pybuilder --file Containerfile .

picture:  ## record the terminal session of README; needs what "make demo" made
	$(BIN)/python scripts/picture

format: setup  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the targets made in this folder
	rm -rf .venv demo dist build bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis
