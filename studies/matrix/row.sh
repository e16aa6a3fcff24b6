#!/bin/sh
# Measures one row of the matrix: row.sh CONCEPT SUBJECT FOLDER ENCODERS, SUBJECT one of open (the base on captions that
# leave the concept open), base, esd, advunlearn, hardened, strict, uce, rece, spm, spm-te, empty_prompt,
# word_filter. ENCODERS is what `make results` trained into; overlays are trained there, too. What an earlier run
# finished is kept.
set -eu
concept=$1 subject=$2 out=$3/$1 captions=named
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PATH="$(dirname "$0")/../../.venv/bin:$PATH"
case $subject in
  open) name=base captions=open ;;
  esd | advunlearn) name=$4/$concept/$subject-0/encoder ;;
  hardened)
    name=$4/$concept/hardened
    [ "$concept" != red ] || name=shapes/red # as shipped
    [ "$concept" = red ] || [ -e "$name/robust_encoder.json" ] ||
      robust-encoders train "shapes/$concept-hardened" --out "$name" --cache-dir "$4/banks" ;;
  strict) name=shapes/$concept ;; # as shipped
  uce | rece | spm | spm-te)
    name=$4/$concept/$subject
    [ -e "$name/robust_encoder.json" ] ||
      robust-encoders train "shapes/$concept-$subject" --out "$name" --cache-dir "$4/banks" ;;
  base | empty_prompt | word_filter) name=$subject ;;
  *) echo "expected one of the subjects that this file names, found $subject" >&2; exit 2 ;;
esac
if [ "$subject" = open ]; then
  set --
elif [ -e "$out/open/results.json" ]; then
  set -- --strength "$out/open"
else
  echo "expected $out/open/results.json: measure the row open first, which says how strong the attacks are" >&2; exit 2
fi
robust-encoders evaluate "$name" --concept "$concept" --captions "$captions" --suite standard --out "$out/$subject" \
  --source "$out/source-$captions" --n 30 --n-kept 200 --n-probes 60 --n-renders 500 --checks 8 "$@"
