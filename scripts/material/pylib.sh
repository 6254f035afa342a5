#!/usr/bin/env bash
# Piece pylib: the Python packages of scripts/requirements.txt, for host-side tools and tests.
# Use: PYTHONPATH=$MATERIAL/pylib "$(cat $MATERIAL/pylib/.python)" script.py
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/pylib
PYTHON=$(python)
KEY=$(key "$0" "$ROOT/scripts/requirements.txt" "$PYTHON" "$("$PYTHON" -V)")
is_fresh pylib "$KEY" && exit 0

stage "$OUT"
pip_target "$OUT.part" -r "$ROOT/scripts/requirements.txt"
PYTHONPATH=$OUT.part "$PYTHON" -c 'import can, cantools, msgpack, zenoh' ||
    die "the Python packages do not load" "see the message of $PYTHON above" "choose another interpreter: PYTHON=/path"
printf '%s\n' "$PYTHON" >"$OUT.part/.python"
publish "$OUT"
mark_fresh pylib "$KEY"
say "pylib: $OUT ($(size "$OUT")), for $PYTHON"
