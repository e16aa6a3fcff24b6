#!/bin/sh
# Measures one column of the table: row.sh CONCEPT SUBJECT FOLDER. SUBJECT is encoder (the shipped one), base or
# empty_prompt. A second run keeps the finished parts.
set -eu
concept=$1 subject=$2 folder=$3 name=$2
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PATH="$(dirname "$0")/../../.venv/bin:$PATH"
[ "$subject" = encoder ] && subject=shapes/$concept
robust-encoders evaluate "$subject" --concept "$concept" --suite standard --n 24 --n-kept 60 --n-probes 60 \
  --n-renders 64 --checks 0 --source "$folder/$concept/source" --out "$folder/$concept/$name" \
  --attacks none,random,paraphrase,word_swap,word_swap_caption,word_swap_attacked,shared,conditioning_inversion,conditioning_inversion_3,conditioning_inversion_10,conditioning_inversion_words
