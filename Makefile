# `make demo` makes images, `make test` runs the tests. Both create .venv at the first call and reuse it afterwards.

PYTHON ?= python3
COMFYUI_PATH ?= $(HOME)/comfy/ComfyUI
HOST_PYTHON ?= $(firstword $(wildcard $(COMFYUI_PATH)/.venv/bin/python $(COMFYUI_PATH)/venv/bin/python))
ENVIRONMENT = .venv/ready
RUN = .venv/bin/python
# Tests that need the host's Python: the host itself, and a browser (each of these in a process of its own,
# for two browsers do not share one).
HOST_TESTS = tests/comfyui
WEB_TESTS = tests/web tests/evaluation/preference/test_browser.py

# A front end that is newer than the one of the host: `make test-newest-frontend FRONT_END=` takes the newest of all.
FRONT_END ?= ==1.58.1
FRONT_END_FOLDER = build/frontend

.PHONY: demo test test-core test-host test-web test-newest-frontend lint bench clean
.NOTPARALLEL:

demo: $(ENVIRONMENT)
	$(RUN) -m demo --out out

# test-core comes last: pytest's own summary is the last line, whether there is a ComfyUI or not.
test: test-host test-web test-core

# One thread, also for what a test starts: deterministic, and faster beside other work.
test-core test-host test-web: export OMP_NUM_THREADS = 1

test-core: $(ENVIRONMENT)
	$(RUN) -m pytest tests $(addprefix --ignore=,$(HOST_TESTS) $(WEB_TESTS))

test-host:
	@if [ -f "$(COMFYUI_PATH)/comfyui_version.py" ] && [ -n "$(HOST_PYTHON)" ]; then \
		echo "Host tests: ComfyUI at $(COMFYUI_PATH)"; \
		COMFYUI_PATH="$(COMFYUI_PATH)" "$(HOST_PYTHON)" -m pytest $(HOST_TESTS); \
	else \
		echo "SKIPPED: host tests ($(HOST_TESTS)): no ComfyUI with a .venv or venv at $(COMFYUI_PATH); set COMFYUI_PATH and HOST_PYTHON"; \
	fi

test-web:
	@if [ -n "$(HOST_PYTHON)" ]; then \
		echo "Browser tests: ComfyUI at $(COMFYUI_PATH)"; \
		for tests in $(WEB_TESTS); do \
			COMFYUI_PATH="$(COMFYUI_PATH)" "$(HOST_PYTHON)" -m pytest $$tests || exit 1; \
		done; \
	else \
		echo "SKIPPED: browser tests ($(WEB_TESTS)): no ComfyUI with a .venv or venv at $(COMFYUI_PATH); set COMFYUI_PATH and HOST_PYTHON"; \
	fi

# Not a part of `make test`: it downloads a package of 28 MB.
test-newest-frontend: export OMP_NUM_THREADS = 1
test-newest-frontend:
	rm -rf $(FRONT_END_FOLDER)
	"$(HOST_PYTHON)" -m pip install --quiet --disable-pip-version-check --no-deps --target $(FRONT_END_FOLDER) \
		"comfyui-frontend-package$(FRONT_END)"
	@ls -d $(FRONT_END_FOLDER)/*.dist-info
	SCFG_FRONT_END="$(CURDIR)/$(FRONT_END_FOLDER)/comfyui_frontend_package/static" COMFYUI_PATH="$(COMFYUI_PATH)" \
		"$(HOST_PYTHON)" -m pytest tests/web

lint: $(ENVIRONMENT)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright
	$(RUN) -m bandit --quiet -c pyproject.toml -r .

bench: $(ENVIRONMENT)
	@if [ -f "$(COMFYUI_PATH)/comfyui_version.py" ] && [ -n "$(HOST_PYTHON)" ]; then \
		echo "Benchmarks with ComfyUI at $(COMFYUI_PATH)"; \
		COMFYUI_PATH="$(COMFYUI_PATH)" "$(HOST_PYTHON)" -m benchmarks; \
	else \
		echo "Benchmarks with diffusers: no ComfyUI with a .venv or venv at $(COMFYUI_PATH)"; \
		$(RUN) -m benchmarks; \
	fi

$(ENVIRONMENT): requirements-dev.txt
	@echo "Making .venv with the pinned CPU packages of requirements-dev.txt (once; about 520 MB to download)"
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv out $(FRONT_END_FOLDER)
