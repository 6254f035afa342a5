#!/usr/bin/env bash
# Piece python-base: the smallest root file system in which a Python app with the stock Zenoh client
# runs: Debian's python3 and the shared libraries it needs, the client's wheel, busybox as the shell.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../lib.sh"
OUT=$MATERIAL/base-python
ZENOH=eclipse-zenoh==1.10.2
MACHINE=$(uname -m)
KEY=$(key "$0" "$ZENOH" "$MACHINE")
is_fresh python-base "$KEY" && exit 0
need readelf binutils

# What an app in a car has no use for, and modules whose libraries would double the size.
DROP=(test idlelib lib2to3 distutils ensurepip turtledemo pydoc_data tkinter curses venv)
DROP_DYNLOAD=('nis.*' '_dbm.*' '_gdbm.*' 'readline.*' '_curses*' '_tkinter*' '_test*' '_xxtest*' 'audioop.*')

# merge FROM TO: copies a package tree, folding /bin, /lib, /lib64 into /usr as merged systems have it.
merge() {
    local top
    for top in bin sbin lib lib64; do
        [ -d "$1/$top" ] && mkdir -p "$2/usr/$top" && cp -a "$1/$top/." "$2/usr/$top/"
    done
    cp -a "$1/usr/." "$2/usr/"
}

# copy_libraries FROM TO: copies every shared library that a program in TO needs, and what those need.
copy_libraries() {
    local from=$1 to=$2 name source added=1
    while [ $added = 1 ]; do
        added=0
        for name in $(find "$to" -type f \( -name '*.so*' -o -path '*/bin/python3*' \) -print0 |
            xargs -0 readelf -d 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u); do
            [ -z "$(find "$to/usr/lib" "$to/usr/lib64" -name "$name" -print -quit 2>/dev/null)" ] || continue
            source=$(find "$from" -name "$name" -print -quit)
            [ -n "$source" ] || die "library $name not found" "no Debian package fetched here holds it" \
                "report this with the release of your Debian"
            cp -L --preserve=mode "$source" "$to/usr/lib/$TRIPLET/$name"
            added=1
        done
    done
}

# check: the interpreter runs in there, alone, and the client loads.
check() {
    local program='import zenoh, json, ssl, ctypes, sqlite3; zenoh.Config()'
    if unshare -r true 2>/dev/null; then
        unshare -r chroot "$1" /usr/bin/python3 -I -c "$program"
    elif [ "$(id -u)" = 0 ]; then
        chroot "$1" /usr/bin/python3 -I -c "$program"
    else
        say "python-base: not tried out: this machine lets ordinary users make no user namespace"
    fi
}

apt_update
PACKAGE=$(apt apt-cache depends python3-minimal | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal/\1/p' | head -1)
[ -n "$PACKAGE" ] || die "Debian's Python was not found" "python3-minimal names no interpreter" "check the apt sources"
VERSION=${PACKAGE#python}
CLOSURE=$(DEB_STATUS=/dev/null deb_closure "$PACKAGE-minimal" "lib$PACKAGE-stdlib" libgcc-s1 busybox-static |
    grep -vxE 'dpkg|tar|media-types|readline-common|libtirpc-common|libc-bin|gcc-.*-base')
# shellcheck disable=SC2086
deb_fetch $CLOSURE
UNPACKED=$MATERIAL/cache/base-python
rm -rf "$UNPACKED"
# shellcheck disable=SC2086
deb_unpack "$UNPACKED" $CLOSURE
stage "$UNPACKED.merged"
merge "$UNPACKED" "$UNPACKED.merged.part"
FROM=$UNPACKED.merged.part
TRIPLET=$(basename "$(dirname "$(find "$FROM/usr/lib" -mindepth 2 -maxdepth 2 -name 'libc.so.6')")")

say "python-base: putting Python $VERSION together"
stage "$OUT"
TO=$OUT.part
mkdir -p "$TO"/{app,dev,etc,proc,run/verge,sys,tmp,usr/bin,usr/lib/"$TRIPLET",usr/lib/python3/dist-packages}
ln -s usr/bin "$TO/bin"
ln -s usr/bin "$TO/sbin"
ln -s usr/lib "$TO/lib"
cp -a "$FROM/usr/bin/$PACKAGE" "$FROM/usr/bin/busybox" "$TO/usr/bin/" 2>/dev/null ||
    cp -a "$FROM/usr/bin/$PACKAGE" "$FROM/bin/busybox" "$TO/usr/bin/"
ln -s "$PACKAGE" "$TO/usr/bin/python3"
ln -s busybox "$TO/usr/bin/sh"
cp -a "$FROM/usr/lib/$PACKAGE" "$TO/usr/lib/"
for name in "${DROP[@]}"; do rm -rf "$TO/usr/lib/$PACKAGE/$name"; done
for name in "${DROP_DYNLOAD[@]}"; do
    # shellcheck disable=SC2086  # the names are patterns
    rm -f "$TO/usr/lib/$PACKAGE/lib-dynload"/$name
done
rm -rf "$TO/usr/lib/$PACKAGE"/config-*
printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$TO/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$TO/etc/group"

WHEELS=$MATERIAL/cache/wheel-zenoh
if [ -z "$(find "$WHEELS" -name "eclipse_zenoh-${ZENOH##*=}-*$MACHINE.whl" 2>/dev/null)" ]; then
    # The glibc tags that a Debian of 2023 or later can load; pip takes the best one offered.
    pip_wheel "$WHEELS" --python-version "$VERSION" --implementation cp --abi abi3 --abi "cp${VERSION/./}" \
        --platform "manylinux_2_34_$MACHINE" --platform "manylinux_2_28_$MACHINE" \
        --platform "manylinux_2_17_$MACHINE" --platform "manylinux2014_$MACHINE" "$ZENOH"
fi
"$(python)" -m zipfile -e "$WHEELS"/eclipse_zenoh-"${ZENOH##*=}"-*"$MACHINE".whl "$TO/usr/lib/python3/dist-packages"
find "$TO/usr/lib/python3/dist-packages" -name '*.pyi' -delete
strip --strip-unneeded "$TO"/usr/lib/python3/dist-packages/zenoh/*.so # symbol names only; a third of its size

copy_libraries "$FROM" "$TO"
# The loader has its own fixed place, which the ABI names.
LOADER=$(readelf -l "$TO/usr/bin/$PACKAGE" | sed -n 's/.*interpreter: \(.*\)\]/\1/p')
case $LOADER in /lib64/*) mkdir -p "$TO/usr/lib64" && ln -s usr/lib64 "$TO/lib64" ;; esac
cp -L "$(find "$FROM/usr/lib" "$FROM/usr/lib64" -name "$(basename "$LOADER")" -print -quit)" "$TO/usr$LOADER"
chmod 755 "$TO/usr$LOADER"

say "python-base: trying it out"
check "$TO" >&2 || die "Python does not run in $TO" "see its message above" "report this with the release of your Debian"
find "$TO" -name __pycache__ -prune -exec rm -rf {} +
rm -rf "$UNPACKED" "$FROM"
publish "$OUT"
mark_fresh python-base "$KEY"
say "python-base: $OUT ($(size "$OUT")), Python $VERSION, $ZENOH"
