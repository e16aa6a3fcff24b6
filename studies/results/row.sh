#!/bin/sh
# Trains and measures one row of the table: row.sh CONCEPT METHOD SEED OUT. METHOD is base, esd or advunlearn.
# A second run keeps the finished parts. Seed 0 of advunlearn is measured on twice as many prompts.
set -eu
concept=$1 method=$2 seed=$3 out=$4/$1/$2-$3
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PATH="$(dirname "$0")/../../.venv/bin:$PATH"
case $method in
  base) subject=base ;;
  esd) recipe=shapes/$concept-esd subject=$out/encoder ;;
  advunlearn) recipe=shapes/$concept-advunlearn subject=$out/encoder ;;
  *) echo "expected base, esd or advunlearn, found $method" >&2; exit 2 ;;
esac
case $method-$seed in advunlearn-0) n=200 ;; *) n=100 ;; esac
if [ "$subject" != base ] && [ ! -e "$subject/robust_encoder.json" ]; then
  robust-encoders train "$recipe" --seed "$seed" --out "$subject" --cache-dir "$4/banks"
fi
robust-encoders evaluate "$subject" --concept "$concept" --seed "$seed" --n "$n" --out "$out" --suite core --checks 0
