#!/usr/bin/env bash
# Pretrain with default settings on part of a BraTS folder, and judge it on the patients kept aside.
# Usage: scripts/experiments/brats.sh DATA OUT, with DATA a folder of twelve cases named as in BraTS 2018.
set -euo pipefail
data=$1 out=$2
metaseg="$(dirname "${BASH_SOURCE[0]}")/../../.venv/bin/metaseg"
mkdir -p "$out"

[ -f "$out/split.json" ] ||
  "$metaseg" data split "$data" --parts train=7,val=1,test=4 --stratify none --out "$out/split.json"
[ -f "$out/pre/result.json" ] || "$metaseg" pretrain --data "$data" --split "$out/split.json" --out "$out/pre"
"$metaseg" evaluate "$out/pre" --data "$data" --split "$out/split.json" --part test
