# make demo: see it work.  make test: lint, types, tests.  Both make their environment in .venv first.
# make test COVERAGE=yes: the same, and fails if the tests run too few lines.
# make test-browser: the report, the site and the page of `robust-encoders app` in a real browser.
# make docs: the documentation as a site, site/index.html.  make pictures: its diagrams and charts.
# make space: a folder that can be uploaded as a Space on the Hub.
# make test-docs: every command and every block of code of README and docs, the site, and long walks of other tests.
# make test-oldest: the loader's tests on the oldest versions it supports, in .venv-oldest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# In the order of collection, which begins with the long files (tests/conftest.py): so all processes end together.
PYTEST_ARGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
# make -j2 results: the table of studies/results; hours. Every part that is finished is kept.
RESULTS := runs/results
TABLE := $(foreach c,circle striped red,$(foreach m,base esd advunlearn,$(foreach s,0 1,$(RESULTS)/$c/$m-$s)))
# One stamp per content, not per time: a fresh checkout of the same files installs nothing.
STAMP := .venv/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)

# make -j2 matrix: every attack on every encoder, studies/matrix; hours, after those of results. Finished parts are kept.
MATRIX := runs/matrix
SUBJECTS := base esd advunlearn hardened uce rece spm spm-te empty_prompt word_filter

.PHONY: build-emoji build-shapes clean demo docs env lint matrix pictures results space test test-browser test-docs test-oldest types
.DEFAULT_GOAL := test

env: $(STAMP)

# torch first and alone, so that nothing else chooses its build; torchattacks without its stale pins; eval-unlearn without
# datasets and pyarrow, by which it only fetches prompts. torchvision lies apart: the index's build does not import beside
# every build of torch, and transformers imports it wherever it finds it.
$(STAMP):
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt torch setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[attacks,dev,docs,eval,metrics,nudenet,train,worlds]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchattacks lpips eval-unlearn
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade --target .venv/torchvision torchvision
	rm -f .venv/.ready-*
	touch $@

OLDEST := .venv-oldest/.ready-$(shell cat pyproject.toml constraints-oldest.txt | cksum | cut -d ' ' -f 1)
$(OLDEST):
	test -x .venv-oldest/bin/python || "$(PYTHON)" -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --constraint constraints-oldest.txt torch setuptools
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --no-build-isolation --editable . \
		accelerate peft pytest pytest-xdist
	rm -f .venv-oldest/.ready-*
	touch $@

# Only the page needs Gradio.
APP := .venv/.app-$(shell cksum < constraints-app.txt | cut -d ' ' -f 1)
$(APP): | $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --requirement constraints-app.txt
	rm -f .venv/.app-*
	touch $@

# One thread: the models are tiny, and a second one would only wait where the cores are busy.
demo: env
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/robust-encoders demo --out .

lint: env types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What mypy reads: see pyproject.toml.
types:
	rm -rf .types && mkdir -p .types/robust_encoders
	ln -s $(foreach entry,$(wildcard robust_encoders/*),../../$(entry)) ../../training .types/robust_encoders

# Images of containers often forbid to keep compiled modules; each of the many programs that tests start would compile
# the package again.
test test-browser test-docs test-oldest: export PYTHONDONTWRITEBYTECODE =

# COVERAGE=yes, as CI sets it, also measures which lines the tests run; tracing takes a third of their time.
COVERAGE ?= no
COVERAGE_ARGS := $(if $(filter yes,$(COVERAGE)),--cov --cov-report=term:skip-covered)

# One thread a process: pytest-xdist already runs one process a core.
test: env lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest $(PYTEST_ARGS) $(COVERAGE_ARGS)
ifeq ($(COVERAGE),yes)
	@echo "coverage of robust_encoders, at least 95 %:"
	@$(BIN)/coverage report --include='robust_encoders/*' --format=total --fail-under=95
	@echo "coverage of training, at least 85 %:"
	@$(BIN)/coverage report --include='training/*' --format=total --fail-under=85
endif

# Every test file that needs neither the training code nor the development tools.
LOADER_TESTS = $(shell grep -rLE 'robust_encoders\.training|full_size' tests/loader --include='test_*.py')

test-oldest: env $(OLDEST)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} ROBUST_ENCODERS_OTHER_PYTHON=$(BIN)/python \
		.venv-oldest/bin/python -m pytest $(PYTEST_ARGS) tests/helpers/generations.py $(LOADER_TESTS)

# Fails where Chromium or ChromeDriver is missing; Debian: apt-get install chromium chromium-driver fonts-dejavu-core
test-browser: env types $(APP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -m browser tests/project tests/training/reports/html \
		tests/training/app/test_page_browser.py

test-docs: env types
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -m docs $(patsubst loadfile,loadgroup,$(filter-out --no-loadscope-reorder,$(PYTEST_ARGS))) tests/project

# A warning is an error. The site opens from its folder: it needs no server, and no network.
docs: env types
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file website/mkdocs.yml
	@echo "open site/index.html; only its search needs a server: python3 -m http.server --directory site"

pictures: env
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m website.pictures

# The package itself lies beside the page, because it is on no index.
space: env
	rm -rf build && mkdir -p build/space
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/space .
	cd build/space && ../../$(BIN)/python -m zipfile -e *.whl . && rm *.whl
	cp integrations/space/* build/space/

build-shapes: env
	$(BIN)/robust-encoders shapes build --out robust_encoders/assets/shapes --work runs/shapes

# Needs npm. Hours; a stopped build goes on where it stopped.
build-emoji: env
	$(BIN)/robust-encoders emoji fetch --out runs/emoji/sources
	$(BIN)/robust-encoders emoji build --sources runs/emoji/sources --out robust_encoders/assets/emoji --work runs/emoji

results: $(TABLE:=/results.json)
	$(BIN)/robust-encoders results $(TABLE)

$(RESULTS)/%/results.json: | env
	studies/results/row.sh $(*D) $(subst -, ,$(*F)) $(RESULTS)

matrix: $(foreach c,circle striped red,$(foreach s,$(SUBJECTS),$(MATRIX)/$c/$s/results.json)) $(MATRIX)/circle/strict/results.json
	$(BIN)/robust-encoders results $(patsubst %/results.json,%,$^)

$(MATRIX)/%/results.json: | env
	studies/matrix/row.sh $(*D) $(*F) $(MATRIX) $(RESULTS)

# How strong the attacks are comes first; the encoders of ESD and AdvUnlearn are trained by make results.
define row
$(MATRIX)/$1/$2/results.json: | $(MATRIX)/$1/open/results.json
endef
$(foreach c,circle striped red,$(foreach s,$(SUBJECTS),$(eval $(call row,$c,$s))))
$(eval $(call row,circle,strict))
$(foreach c,circle striped red,$(foreach m,esd advunlearn,$(eval $(MATRIX)/$c/$m/results.json: | $(RESULTS)/$c/$m-0/results.json)))

clean:
	rm -rf .types .venv .venv-oldest .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache build dist site demo.png demo-strip.png robust_encoders.egg-info
	find robust_encoders training tests website -name __pycache__ -prune -exec rm -rf {} +
