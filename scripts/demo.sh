#!/usr/bin/env bash
# Set up, then the main job on synthetic phantoms: pretrain on glioma, adapt to metastasis by four methods, compare.
# Minutes on two CPU cores. Arguments: the folder to write (default: demo).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

out="${1:-demo}"
metaseg=.venv/bin/metaseg
export METASEG_CACHE="${METASEG_CACHE:-$out/cache}"
begun=$(date +%s)

"$metaseg" data phantoms "$out/phantoms" --cohort hgg --cases 16 --seed 0
"$metaseg" data phantoms "$out/phantoms" --cohort met --cases 12 --seed 0

run() { # verb and name of a run, then options; a finished run is kept, an interrupted one continued
  local verb=$1 name=$2
  shift 2
  if [ -f "$out/runs/$name/checkpoints/last.state.pt" ]; then
    "$metaseg" "$verb" --out "$out/runs/$name" --resume
  else
    "$metaseg" "$verb" --out "$out/runs/$name" --overwrite "$@"
  fi
}

run pretrain pretrained --data "$out/phantoms/HGG" --epochs 40 --slices-per-epoch 120 --val-fraction 0.25 \
  --validate-every 20 --model-options '{"channels": [16, 32, 64, 128], "strides": [2, 2, 2]}' --learning-rate 0.002 \
  --ema 0.98
shared=(--from "$out/runs/pretrained" --data "$out/phantoms/MET" --shots 4 --slices 12 --budget 480 --marks 2
  --watch-cases 4)
run naivetune naive "${shared[@]}"
run metatune passive "${shared[@]}" --order passive
run metatune active "${shared[@]}" --order active
# The default rate is too high for so few steps of so small a network, and the quick choice does not try others.
run tune recommended "${shared[@]}" --effort quick --learning-rate 5e-4

"$metaseg" report "$out"/runs/{naive,passive,active,recommended} --out "$out/report.html"
"$metaseg" evaluate "$out/runs/active" --data "$out/phantoms/MET" --data "$out/phantoms/HGG" --pictures 2
"$metaseg" predict "$out/runs/active" "$out"/phantoms/MET/*_011 --out "$out/predictions" --overwrite
echo
.venv/bin/python scripts/demo_table.py "$out"
echo
echo "Everything above is SYNTHETIC: phantoms, not patients. It took $(($(date +%s) - begun)) s."
echo "Report:      $out/report.html"
echo "Pictures:    $out/runs/active/evaluation/pictures, $out/predictions, $out/runs/*/progress.png"
echo "TensorBoard: .venv/bin/tensorboard --logdir $out/runs"
