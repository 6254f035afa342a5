#!/usr/bin/env bash
# Plants mutants, one at a time, in the modules that .cargo/mutants.toml lists, and runs the tests of their package. One
# that no test notices must stand in mutants-missed.txt beside this script, where a comment above says why it may live.
# tests: P5-06
#
#   scripts/soak/mutants.sh [ARGUMENT...]      further arguments of cargo mutants, such as -F ladder.rs for one module
#
# What it found stays in $BUILD/soak/mutants.out.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
VERSION=27.1.0
tools=$BUILD/tools
out=$BUILD/soak
allowed=$ROOT/scripts/soak/mutants-missed.txt

cd "$ROOT"
mkdir -p "$out" "$BUILD/mutants-tmp"
if [ "$("$tools/bin/cargo-mutants" mutants --version 2>/dev/null)" != "cargo-mutants $VERSION" ]; then
    say "building cargo-mutants $VERSION"
    cargo install --locked --quiet --root "$tools" --target-dir "$tools/target" cargo-mutants --version "$VERSION"
    rm -rf "$tools/target"
fi

# Each of the jobs builds in a copy of the tree, with a target directory of its own.
code=0
env -u CARGO_TARGET_DIR TMPDIR="$BUILD/mutants-tmp" "$tools/bin/cargo-mutants" mutants \
    --jobs 2 --output "$out" "$@" || code=$?
case $code in
0 | 2 | 3) ;; # all caught; some missed; some ran into the timeout, which is noticed as well
*) die "cargo mutants ended with exit code $code" "see above" "see https://mutants.rs/exit-codes.html" ;;
esac
[ -s "$out/mutants.out/caught.txt" ] || die "no mutant was caught" "none was planted, or no test ran" \
    "look at $out/mutants.out and at examine_globs in .cargo/mutants.toml"

# Without line and column, which move with every edit; the same mutant in two places of a function is two lines.
missed() { sed -E 's/^([^:]+):[0-9]+:[0-9]+: /\1: /' "$out/mutants.out/missed.txt" | sort; }
new=$(comm -23 <(missed) <(grep -vE '^(#|$)' "$allowed" | sort))
[ -z "$new" ] || die "$(wc -l <<<"$new") mutant(s) that no test notices:
$new" "a check could be broken like this and all tests would pass" \
    "write the test; a mutant that changes nothing goes into scripts/soak/mutants-missed.txt with the reason"
say "mutants: $(wc -l <"$out/mutants.out/caught.txt") caught, $(missed | wc -l) missed, all of them known"
