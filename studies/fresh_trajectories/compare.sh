#!/bin/sh
# Compares a bank with fresh trajectories: compare.sh FOLDER [CONCEPT] [ITERATIONS] [N]. Trains two seeds of each with the
# same settings and number of iterations, and judges them by the same evaluation on N prompts. A second run keeps the
# finished parts. The numbers go to FOLDER/CONCEPT/*/results.json.
set -eu
concept=${2:-circle} out=$1/${2:-circle} iterations=${3:-200} n=${4:-100}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PATH="$(dirname "$0")/../../.venv/bin:$PATH"
for seed in 0 1; do
  for mode in bank resample; do
    run=$out/$mode-$seed bank=$mode
    if [ "$mode" = resample ]; then bank=fresh; fi
    if [ ! -e "$run/encoder/robust_encoder.json" ]; then
      robust-encoders train "shapes/$concept-advunlearn" --seed "$seed" --out "$run/encoder" --cache-dir "$1/banks" \
        --bank.mode "$bank" --train.iterations "$iterations" --attack.steps 8
    fi
    robust-encoders evaluate "$run/encoder" --concept "$concept" --seed "$seed" --n "$n" --out "$run" --suite core --checks 0
  done
done
for mode in bank resample; do
  printf '\n%s\n\n' "$mode"
  robust-encoders results "$out/$mode-0" "$out/$mode-1"
done
