# Each target makes its own virtual environment when it is missing.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN = $(VENV)/bin

.PHONY: demo test nightly test-lowest lint results clean

demo: $(VENV)/.installed
	@echo 'Editing a clip of the synthetic world: about half a minute.'
	$(BIN)/holdfast demo

test: $(VENV)/.tests-installed
	$(BIN)/python -m pytest

# Quality of the trained models, and whether the tests notice each of some hundred faults in the code: hours.
nightly: $(VENV)/.tests-installed
	$(BIN)/python -m pytest -m nightly
	$(BIN)/python tests/mutations.py

# The suite with the lowest versions that pyproject.toml allows.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest

lint: $(VENV)/.tests-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# All methods on held-out scenes of every difficulty, measured against the exact results. A stopped run resumes.
results: $(VENV)/.tests-installed
	$(BIN)/holdfast bench run shapeworld:single,several,crossing,fast,long -o runs/results --limit 60 --metrics truth,scene_truth,masked_psnr,ssim,warp_error,motion_fidelity,flow_error --methods flowanchor+mask,flowedit,flowedit+mask,wanedit+mask,flowdirector,flowalign,dfvedit,rfsolver,uniedit,sdedit
	$(BIN)/holdfast bench report runs/results
	( echo '# Results'; echo; cat runs/results/table.md ) > docs/results.md

# torch comes first and pinned: without a pin another package would pull in its newest and largest build.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo 'Installing Holdfast into $(VENV): some minutes, and about 1.5 GB of disk.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.tests-installed: $(VENV)/.installed
	@echo 'Installing what the tests need as well: the page, batches, reports, a type checker.'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	grep -o '"[a-z][a-z-]*>=[0-9.]*' pyproject.toml | grep -v setuptools | sed 's/"//; s/>=/==/' > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet -c $(LOWEST)/constraints.txt torch
	$(LOWEST)/bin/python -m pip install --quiet -c $(LOWEST)/constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) demo
