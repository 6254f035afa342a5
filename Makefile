# Two commands do all: `make demo` runs the main job, `make test` passes the tests.
# Everything that they download, unpack or build goes into the build directory (VERGE_BUILD, default: target).

BUILD := $(or $(VERGE_BUILD),target)
export CARGO_TARGET_DIR := $(BUILD)
BIN := $(BUILD)/debug

.PHONY: demo test build material bench soak dist clean help

help:
	@echo "make demo   a car on the road, on this machine  [DRIVE=log DBC=file] [SEED=n] [KEEP=1]"
	@echo "make test   all tests"
	@echo "make bench  the table of figures, beside the rivals  [ID=family]"
	@echo "make soak   the tests that take hours  [ONLY=stage: scripts/soak.sh lists them]"
	@echo "make dist   release tarballs for x86-64 and aarch64  [ARCH=x86_64|aarch64]"

build:
	cargo build --locked -p obu-host -p obu-runtime -p sim

material:
	scripts/material.sh

demo: build material
	$(BIN)/verge demo --material $(BUILD)/material \
	    $(if $(DRIVE),--drive '$(DRIVE)') $(if $(DBC),--dbc '$(DBC)') $(if $(MAPPING),--mapping '$(MAPPING)') \
	    $(if $(SEED),--seed $(SEED)) $(if $(KEEP),--keep)

test:
	scripts/test.sh

bench:
	scripts/bench.sh $(ID)

# ONLY and the numbers of the stages reach the script as make's own variables do: through the environment.
soak:
	scripts/soak.sh

dist:
	scripts/dist.sh $(ARCH)

clean:
	cargo clean
