#!/usr/bin/env bash
# Make the project's environment in .venv, or find it again. Sourced or run by the other scripts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fingerprint=$(cat pyproject.toml scripts/setup.sh | cksum)
if [ -x .venv/bin/metaseg ] && [ "$(cat .venv/.metaseg-setup 2>/dev/null)" = "$fingerprint" ]; then
  return 0 2>/dev/null || exit 0
fi

python=""
for candidate in python3.13 python3.12 python3.11 python3 python; do
  if command -v "$candidate" >/dev/null 2>&1 &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
    python=$(command -v "$candidate")
    break
  fi
done
if [ -z "$python" ]; then
  echo "metaseg needs Python 3.11, 3.12 or 3.13; none was found on the PATH" >&2
  exit 1
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  echo "Installing uv into .uv (once)..."
  "$python" -m venv .uv
  .uv/bin/python -m pip install --quiet --disable-pip-version-check uv
  uv=.uv/bin/uv
fi
echo "Installing metaseg and what it needs into .venv (about 6 GB with torch, once)..."
# Bytecode at once: where Python may not write it later, every start would translate all of torch and MONAI anew.
"$uv" sync --quiet --python "$python" --no-python-downloads --compile-bytecode
.venv/bin/python -m compileall -q metaseg || true
echo "$fingerprint" >.venv/.metaseg-setup
