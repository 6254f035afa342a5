#!/usr/bin/env bash
# Piece sumo: the traffic simulator, for sim/drives/make-drive.py. Not part of the demo, which plays
# the drive that was made with it.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/sumo
SUMO=eclipse-sumo==1.28.0
KEY=$(key "$0" "$SUMO" "$("$(python)" -V)")
is_fresh sumo "$KEY" && exit 0

stage "$OUT"
pip_target "$OUT.part" "$SUMO"
publish "$OUT"
mark_fresh sumo "$KEY"
say "sumo: $OUT ($(size "$OUT"))"
