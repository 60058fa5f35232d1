#!/usr/bin/env bash
# Set up and pass every check: lint, format, types, documentation and tests. Arguments go to pytest, which then runs alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ "$#" -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check .
# Types and documentation need one core each, for a part of the time that the tests take.
.venv/bin/mypy &
types=$!
.venv/bin/sphinx-build -q -W -c docs . site &
site=$!
.venv/bin/python -m pytest --dist loadfile -n "$(.venv/bin/python -c 'import os; print(min(4, os.cpu_count() or 1))')"
wait "$types"
wait "$site"
