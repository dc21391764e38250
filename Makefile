# make report | test | lab | study | time | bench | clean — each makes .venv and installs the project into it first.

PYTHON  ?= python3
PROFILE ?= demo
VENV    := .venv
RUN     := $(VENV)/bin/python
READY   := $(VENV)/installed.stamp

export PYTHONUNBUFFERED = 1

.PHONY: report test lab study time bench clean
.DEFAULT_GOAL := report

report: $(READY)  ## execute the notebooks and write the pages (PROFILE=demo, study or paper)
	@$(if $(filter demo,$(PROFILE)),$(RUN) -m helpers.study --profile demo --processes 2)
	@$(RUN) -m helpers.report --profile $(PROFILE)

test: $(READY)  ## every test; those that need real CIFAR or a browser say why they are skipped
	@$(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy

lab: $(READY)  ## step through the notebooks in JupyterLab
	@PROFILE=$(PROFILE) $(RUN) -m jupyterlab --notebook-dir=. --LabApp.default_url=/lab/tree/notebooks/00_baseline.ipynb \
	  $(if $(filter 0,$(shell id -u)),--allow-root)

study: PROFILE = study
study: $(READY)  ## make every missing result; WORKERS=4: four at a time; SCHEDULER=tcp://host:8786: on a Dask cluster
	@$(RUN) -m helpers.study --profile $(PROFILE) $(WORKERS:%=--processes %) $(SCHEDULER:%=--scheduler %)

time: $(READY)  ## dense, pruned and smaller networks in every installed engine on this machine: one page, reports/here.html
	@$(RUN) -m helpers.report.here

bench: $(READY)  ## every benchmark, one table in results/bench.md
	@$(RUN) -m bench

clean:  ## what a build makes again; never the committed rows, figures and pages
	rm -rf build .pytest_cache .ruff_cache .hypothesis

$(READY): requirements.txt pyproject.toml  ## the project itself is installed too, so that a kernel started anywhere finds helpers
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is " + sys.version.split()[0] + " (make PYTHON=python3.12 …)")'
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing requirements.txt and the project into $(VENV) …"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@
