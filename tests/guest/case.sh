# What the guest's cases of a node share: where the programs are, a directory, and how a check is told. Source it from
# a case, first of all; it goes to the root of the repository.
# shellcheck shell=bash
set -euo pipefail
[ -e /run/guest/control ] || { echo "${0##*/} makes cgroups and more: run it in the guest" >&2 && exit 1; }
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${VERGE_BUILD:-target}
bin=$(realpath "${VERGE_BIN:-$build/debug}")
material=$(realpath "$build/material")
dir=$(mktemp -d)
failed=0
export bin material
ok() { echo "ok $1"; }
fail() { echo "FAIL $1: $2" && failed=1; }

# until_ok NAME SECONDS COMMAND...: waits for a command to succeed.
until_ok() {
    local name=$1 end=$((SECONDS + $2))
    shift 2
    until "$@" >"$dir/last" 2>&1; do
        if [ $SECONDS -ge $end ]; then
            fail "$name" "$(tail -3 "$dir/last" | tr '\n' ' ')"
            return 1
        fi
        sleep 0.2
    done
    ok "$name"
}
