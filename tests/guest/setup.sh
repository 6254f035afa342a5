#!/usr/bin/env bash
# Prepares the guest machine of the tests under $BUILD/guest: a kernel with CAN, the tools that run
# in it, and QEMU. See README.md beside this file.
#
#   tests/guest/setup.sh
#
# Needs no root and installs nothing: packages come from Debian and are unpacked into the build
# directory. A second run does only what changed.
# shellcheck source=../../scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

HERE=$ROOT/tests/guest
GUEST=$BUILD/guest
KERNEL_NAME='linux-image-6\.1\.0-[0-9]+-amd64'
# What the guest has that the host may lack. kmod comes first: it also indexes the modules here.
TOOLS=(kmod can-utils iproute2 systemd)

# The root file system comes over 9p and is written to through an overlay.
BOOT_MODULES=(virtio_pci 9pnet_virtio 9p overlay virtio_console)
# Loaded from the initramfs: one modprobe over 9p costs as much as all of these.
TEST_MODULES=(can-raw can-bcm can-gw can-isotp can-j1939 vcan vxcan veth sch_netem)
# Two thirds of the modules are drivers for hardware that the guest never has.
UNUSED_MODULES=(gpu infiniband net/ethernet net/wireless scsi staging iio hwmon usb isdn mtd input
    bluetooth nvme ata md thunderbolt mmc power platform edac hid message)

main() {
    { mkdir -p "$GUEST" 2>/dev/null && [ -w "$GUEST" ]; } ||
        die "cannot write to $GUEST" "it belongs to someone else or the disk is read-only" \
            "set VERGE_BUILD to a directory of your own"
    [ "$(uname -m)" = x86_64 ] ||
        die "no guest on $(uname -m)" "the guest is an x86-64 machine" "run the guest tests on x86-64"
    exec 9>"$GUEST/.lock"
    flock -n 9 || { say "waiting for another run of this script" && flock 9; }
    remove_leftovers
    piece tools make_tools "$HERE/setup.sh"
    piece qemu make_qemu "$HERE/setup.sh" "$(host_qemu)"
    piece initrd make_initrd "$HERE/setup.sh" "$HERE/init" "$HERE/stage2"
}

# piece NAME FUNCTION MADE-OF...: not in a condition, where an error would not end the script.
piece() {
    local name=guest-$1 make=$2 made_of
    shift 2
    made_of=$(key "$@")
    if ! is_fresh "$name" "$made_of"; then
        "$make"
        mark_fresh "$name" "$made_of"
    fi
}

# What a killed `run` left: its directory carries its process id.
remove_leftovers() {
    local dir
    for dir in "$GUEST"/run.*; do
        [ -e "/proc/${dir##*.}" ] || rm -rf "$dir"
    done
}

# ---- the kernel and the tools: $GUEST/tools, laid over the host's root in the guest ----

make_tools() {
    local kernel missing
    kernel=$(kernel_package)
    missing=$(missing_packages)
    say "unpacking $kernel and the guest's tools"
    stage "$GUEST/tools"
    # shellcheck disable=SC2086 # a list of package names
    deb_unpack "$GUEST/tools.part" "${TOOLS[@]}" $missing
    unpack_kernel "$kernel" "$GUEST/tools.part"
    merge_usr "$GUEST/tools.part"
    index_modules "$GUEST/tools.part" "${kernel#linux-image-}"
    publish "$GUEST/tools"
    printf '%s\n' "${kernel#linux-image-}" >"$GUEST/release"
}

# The newest kernel that is downloaded already, or else that Debian has. Debian drops old ones, so
# the package lists are read again before one is chosen.
kernel_package() {
    local found
    found=$(find "$MATERIAL/cache/deb" -name 'linux-image-6.1.0-*.deb' -printf '%f\n' 2>/dev/null |
        cut -d_ -f1 | sort -V | tail -n 1)
    if [ -z "$found" ]; then
        apt_update force
        found=$(apt apt-cache search --names-only "^$KERNEL_NAME\$" | cut -d' ' -f1 | sort -V | tail -n 1)
    fi
    [ -n "$found" ] ||
        die "no kernel package like $KERNEL_NAME" "Debian's package lists do not have it: $(tail -n 1 "$MATERIAL/cache/apt/update.log")" \
            "check the network; it takes Debian 12 (bookworm) or its source in /etc/apt/sources.list"
    printf '%s\n' "$found"
}

# What the tools need and the host does not have; what it has, the guest sees.
missing_packages() {
    local package missing=() closure
    for package in "${TOOLS[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    closure=$(deb_closure "${missing[@]}") || return 1
    for package in $closure; do
        [[ " ${TOOLS[*]} " == *" $package "* ]] || printf '%s\n' "$package"
    done
}

# unpack_kernel PACKAGE DIR: the modules into DIR, and the kernel as an ELF file: QEMU starts that
# directly, which saves the seconds that unpacking takes under emulation.
unpack_kernel() {
    local package=$1 dir=$2 unused=() module image offset
    deb_fetch "$package"
    for module in "${UNUSED_MODULES[@]}"; do
        unused+=("--exclude=./lib/modules/*/kernel/drivers/$module")
    done
    dpkg-deb --fsys-tarfile "$(deb_path "$package")" |
        tar -x -C "$dir" --exclude='*/kernel/sound' "${unused[@]}" ./lib/modules ./boot
    image=$(echo "$dir"/boot/vmlinuz-*)
    offset=$(LC_ALL=C grep -aboP '\xfd7zXZ\x00' "$image" | LC_ALL=C awk -F: 'NR == 1 { print $1 }')
    deb_unpack "$GUEST/xz" xz-utils # busybox does not know the filter that kernels are packed with
    # The length of the kernel follows the stream: xz ends before tail does.
    "$GUEST/xz/usr/bin/xz" -dc --single-stream >"$GUEST/vmlinux" < <(tail -c "+$((${offset:-0} + 1))" "$image") || true
    [ "$(head -c 4 "$GUEST/vmlinux")" = $'\x7fELF' ] ||
        die "no kernel in $image" "it is not packed with xz" "report this with the version of $package"
    rm -rf "${dir:?}/boot"
}

busybox() { find "$GUEST/busybox" -name busybox -type f -perm /100; }

# merge_usr DIR: Debian's root has /bin, /sbin and /lib as links into /usr; a directory of that name
# in the overlay would hide the link, and libraries are looked for in one place only.
merge_usr() {
    local name
    for name in bin sbin lib lib64; do
        [ -d "$1/$name" ] || continue
        mkdir -p "$1/usr/$name"
        cp -a "$1/$name/." "$1/usr/$name/"
        rm -rf "${1:?}/$name"
    done
}

# index_modules DIR RELEASE: what modprobe reads.
index_modules() {
    ln -s usr/lib "$1/lib"
    (
        export LD_LIBRARY_PATH=$1/usr/lib/x86_64-linux-gnu
        exec -a depmod "$1/usr/bin/kmod" -b "$1" "$2"
    )
    rm "$1/lib"
}

# ---- QEMU: the host's, or unpacked into $GUEST/qemu ----

host_qemu() { command -v qemu-system-x86_64 || true; }

make_qemu() {
    local packages
    rm -rf "$GUEST/qemu"
    [ -z "$(host_qemu)" ] || return 0
    say "unpacking QEMU"
    packages=$(deb_closure qemu-system-x86)
    stage "$GUEST/qemu"
    # shellcheck disable=SC2086 # a list of package names
    deb_unpack "$GUEST/qemu.part" $packages
    merge_usr "$GUEST/qemu.part"
    publish "$GUEST/qemu"
}

# ---- the initramfs: busybox, the first modules, init ----

make_initrd() {
    local modules=$GUEST/tools/usr/lib/modules dir=$GUEST/initrd.part
    modules=$modules/$(cat "$GUEST/release")
    say "building the guest's initramfs"
    deb_unpack "$GUEST/busybox" busybox-static
    stage "$GUEST/initrd"
    mkdir -p "$dir"/{bin,modules,proc,sys,dev,host,tools,control,share,new}
    cp "$(busybox)" "$dir/bin/busybox"
    cp "$HERE/init" "$HERE/stage2" "$dir/"
    copy_modules "$modules" "$dir/modules" boot "${BOOT_MODULES[@]}"
    copy_modules "$modules" "$dir/modules" test "${TEST_MODULES[@]}"
    (cd "$dir" && find . | "$(busybox)" cpio -o -H newc 2>/dev/null) | gzip -1 >"$GUEST/initrd.gz.part"
    mv "$GUEST/initrd.gz.part" "$GUEST/initrd.gz"
    rm -rf "$dir"
}

# copy_modules FROM TO LIST NAME...: the modules with all that they need, and TO/LIST with their
# file names in the order of loading.
copy_modules() {
    local from=$1 to=$2 list=$2/$3 name
    shift 3
    for name in "$@"; do
        grep -q "/$name\.ko$" "$from/modules.builtin" || load_order "$from" "$name"
    done | awk '!seen[$0]++' >"$list.paths"
    while read -r name; do
        cp "$from/$name" "$to/"
        basename "$name"
    done <"$list.paths" >"$list"
    rm "$list.paths"
}

# load_order DIR NAME: modules.dep lists what a module needs, the first to load at the end.
load_order() {
    awk -F: -v name="/$2.ko" 'substr($1, length($1) - length(name) + 1) == name {
        found = 1
        for (i = split($2, needs, " "); i > 0; i--) print needs[i]
        print $1
    } END { exit !found }' "$1/modules.dep" ||
        die "the guest's kernel has no module $2" "it is not in $1" "choose another kernel in tests/guest/setup.sh"
}

main
