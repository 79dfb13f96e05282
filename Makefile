# Each target makes its own virtual environment when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint results clean

demo: $(VENV)/.installed
	$(BIN)/holdfast demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# All methods on held-out scenes of every difficulty, measured against the exact results; goes on where it was stopped.
results: $(VENV)/.installed
	$(BIN)/holdfast bench run shapeworld:single,several,crossing,fast,long -o runs/results --limit 60 --metrics truth,scene_truth,masked_psnr,ssim,warp_error,motion_fidelity,flow_error --methods flowanchor+mask,flowedit,flowedit+mask,wanedit+mask,flowdirector,flowalign,dfvedit,rfsolver,uniedit,sdedit
	$(BIN)/holdfast bench report runs/results
	( echo '# Results'; echo; cat runs/results/table.md ) > docs/results.md

# torch first and pinned: without a pin another package would pull in its newest and largest build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
