#!/bin/sh
# Trains and measures one row: row.sh CONCEPT METHOD SEED FOLDER. METHOD is base, or the variant of a recipe
# shapes/CONCEPT-METHOD. METHOD+surgery trains with gradient surgery, METHOD+synonyms with synonyms found
# automatically. A second run keeps the finished parts.
set -eu
concept=$1 method=$2 seed=$3 folder=$4 out=$4/$1/$2-$3
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PATH="$(dirname "$0")/../../.venv/bin:$PATH"
subject=$out/encoder
case $method in
  base) subject=base ;;
  *+surgery) set -- --train.gradient-surgery ;;
  *+synonyms) set -- --auto-synonyms 3 --synonym-threshold 0.5 ;;
  *) set -- ;;
esac
if [ "$subject" != base ] && [ ! -e "$subject/robust_encoder.json" ]; then
  robust-encoders train "shapes/$concept-${method%+*}" "$@" --seed "$seed" --out "$subject" \
    --cache-dir "$folder/banks"
fi
robust-encoders evaluate "$subject" --concept "$concept" --seed "$seed" --suite core --checks 0 --n 24 --n-kept 100 \
  --n-probes 2 --n-renders 64 --source "$folder/$concept/source-$seed" --out "$out"
