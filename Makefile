# Set-up needs git, make, a C compiler and Python only. PYTHON=... picks an interpreter.
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test pages check slow clean

demo: $(VENV)/installed
	$(BIN)/jaxcnn train experiments/lenet_digits.py

# Whole files go to one process each: their tests share what they have compiled.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --dist loadfile

# The commands and code of README, docs and notebooks, and a user's own parts of every kind.
pages: $(VENV)/installed
	$(BIN)/python -m pytest -n auto -m slow tests/e2e/test_pages.py tests/test_notebooks.py tests/e2e/test_own_parts.py

slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy jaxcnn scripts experiments

$(VENV)/installed: pyproject.toml scripts/find_python.sh
	rm -rf $(VENV)
	"$$(PYTHON='$(PYTHON)' sh scripts/find_python.sh)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
