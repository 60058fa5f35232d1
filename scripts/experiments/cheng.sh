#!/usr/bin/env bash
# Glioma to meningioma on the Cheng slices: pretrain once, then three methods at equal budgets with three seeds.
# Usage: scripts/experiments/cheng.sh DATA OUT, with DATA a folder of slices with index.csv or of the original .mat files.
set -euo pipefail
data=$1 out=$2
metaseg="$(dirname "${BASH_SOURCE[0]}")/../../.venv/bin/metaseg"
mkdir -p "$out"

[ -f "$out/split.json" ] || "$metaseg" data split "$data" --parts train=0.6,val=0.1,test=0.3 --out "$out/split.json"
shared=(--data "$data" --split "$out/split.json")
[ -f "$out/pre/result.json" ] ||
  "$metaseg" pretrain "${shared[@]}" --classes glioma --image-size 128 --epochs 60 --validate-every 5 --out "$out/pre"

for seed in 0 1 2; do
  tune=("${shared[@]}" --from "$out/pre" --classes meningioma --source "$data" --source-classes glioma --shots 5
    --budget 600 --marks 2 --watch-cases 0 --seed "$seed")
  for method in naive passive active; do
    run="$out/$method-$seed"
    if [ ! -f "$run/result.json" ]; then
      case $method in
        naive) "$metaseg" naivetune "${tune[@]}" --out "$run" --overwrite ;;
        *) "$metaseg" metatune "${tune[@]}" --order "$method" --out "$run" --overwrite ;;
      esac
    fi
    [ -f "$run/evaluation/figures.json" ] ||
      "$metaseg" evaluate "$run" "${shared[@]}" --classes glioma,meningioma --part test --no-surface --pictures 2
  done
done
"$(dirname "$metaseg")/python" "$(dirname "${BASH_SOURCE[0]}")/adaptation_table.py" "$out" naive passive active
