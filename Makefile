# Everything a newcomer needs: `make demo` to see it work, `make test` to check it. Both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo/$(shell date +%Y-%m-%d-%H%M%S)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check clean

demo: .venv/runtime
	$(BIN)/python train.py --cfg yolov5n-ak5.yaml --hyp hyp.demo.yaml --optimizer AdamW --img 160 --batch 8 \
		--epochs 20 --noval --workers 2 --project $(DEMO) --name train
	$(BIN)/python val.py --weights $(DEMO)/train/weights/best.pt --img 160 --project $(DEMO) --name val
	$(BIN)/python detect.py --weights $(DEMO)/train/weights/best.pt --source datasets/shapes/images/test --img 160 \
		--line-thickness 2 --project $(DEMO) --name detect
	@echo
	@echo "Detections on pictures it has not seen: $(DEMO)/detect"
	@echo "Curves and metrics:                     $(DEMO)/train"

test: .venv/development
	$(BIN)/python -m pytest

check: .venv/development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/runtime: requirements.txt | .venv/bin/python
	@echo "Installing requirements.txt into .venv: some minutes and 6 GB the first time"
	$(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/development: requirements-dev.txt .venv/runtime
	$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
