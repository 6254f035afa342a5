#!/usr/bin/env bash
# Piece strace: strace for the tap of the tests, where it is not installed (STRACE=fetch: in any case).
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/strace
[ "${STRACE:-}" != fetch ] && command -v strace >/dev/null && exit 0
KEY=$(key "$0")
is_fresh strace "$KEY" && exit 0

stage "$OUT"
packages=$(deb_closure strace)
# shellcheck disable=SC2086 # a list of package names
deb_unpack "$OUT.part" $packages
libraries=$(echo "$OUT.part"/usr/lib/*-linux-gnu*)
LD_LIBRARY_PATH=$libraries "$OUT.part/usr/bin/strace" --version >/dev/null ||
    die "the fetched strace does not run" "see the message above" "install the Debian package strace"
publish "$OUT"
mark_fresh strace "$KEY"
say "strace: $OUT ($(size "$OUT"))"
