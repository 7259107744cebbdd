# make demo    the whole story on this machine, in minutes; prints where report.html is
# make test    all tests
# make check   format, lint, types, import directions
# Each sets up .venv by itself on first use. On a machine without an NVIDIA card a smaller torch can be had with
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
export PYTHON TORCH_INDEX

BIN := .venv/bin
MINUTES ?= 12

.PHONY: demo test check setup format clean

setup:
	@tools/setup.sh

demo: setup
	$(BIN)/egem demo --minutes $(MINUTES) --out runs/demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff format --check src tests benchmarks packages
	$(BIN)/ruff check src tests benchmarks packages
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright

format: setup
	$(BIN)/ruff format src tests benchmarks packages
	$(BIN)/ruff check --fix src tests benchmarks packages

clean:
	rm -rf .venv runs
