# shellcheck shell=bash
# What every script here begins with: where things lie, messages, steps, locks.
set -euo pipefail
umask 022
export LC_ALL=C.UTF-8

# Where things lie. ------------------------------------------------------------

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
TREE=${SCRIPTS%/*}
CACHE=$(realpath -m -- "${ASHMEM_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/ashmem}")
export ASHMEM_CACHE=$CACHE
# Whose cargo settings count; sudo may change HOME.
export ASHMEM_HOME=${ASHMEM_HOME:-${HOME:?}}
# When the command began, for the elapsed time in front of every step line.
export ASHMEM_BEGIN=${ASHMEM_BEGIN:-$EPOCHSECONDS}

# What passes through sudo and into the root, where it is set.
PASSED_ON=(ASHMEM_CACHE ASHMEM_HOME ASHMEM_BEGIN KERNEL TEST EXAMPLE TIMEOUT MINUTES SEED CALLS COMPARE JSON RECORD MIRROR ALLOW_OUTDATED
    TERM http_proxy https_proxy HTTP_PROXY HTTPS_PROXY no_proxy NO_PROXY)

# hash_of FILE...: a short key made from the contents without comment lines, so
# that a reworded comment does not cost a rebuild.
hash_of() {
    local file
    for file; do
        echo --
        sed '/^# CONFIG_/b; /^[[:space:]]*#\([^!]\|$\)/d' "$file"
    done | sha256sum | cut -c1-12
}

# hash_of_tree PATH...: a key of everything below these paths of the work tree.
hash_of_tree() {
    (cd "$TREE" && find "$@" -type f ! -name '*.md' ! -name '*.[48]' ! -name '*.o' ! -name '*.cmd' ! -name '*.mod*' \
        ! -name '*.ko' ! -name '*_generated.rs' -print0 | LC_ALL=C sort -z | xargs -0r sha256sum) |
        sha256sum | cut -c1-12
}

hash_of_text() { sha256sum <<<"$1" | cut -c1-12; }

ROOT=$CACHE/root-$(hash_of "$SCRIPTS/kernel.packages" "$SCRIPTS/root.packages" "$SCRIPTS/root")

# Messages. --------------------------------------------------------------------

say() {
    local t=$((EPOCHSECONDS - ASHMEM_BEGIN))
    printf '[%3d:%02d] %s\n' $((t / 60)) $((t % 60)) "$*" >&2
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Steps. -----------------------------------------------------------------------

PASSED_OVER=77

# step NAME TEXT COMMAND [ARG...]: runs the command with its output in a log
# file, between two lines that say what is done and how long it took. Of a log
# that ends in failure the last TAIL lines are shown. Not for conditions
# (`step … || …`): errexit would be off in the command.
step() {
    local name=$1 text=$2 log=$CACHE/logs/$1.log begin=$EPOCHSECONDS status=0
    shift 2
    mkdir -p "$CACHE/logs"
    say "$name: $text"
    set +e
    (
        set -e
        "$@"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
    case $status in
    0) say "$name: done in $((EPOCHSECONDS - begin)) s" ;;
    130 | 143) exit "$status" ;;
    # A kernel for which the module cannot be built, as packaging/kernel-tree has it. The last line
    # says why, here and at last.
    "$PASSED_OVER")
        tail -n 1 "$log" >&2
        exit "$status"
        ;;
    *)
        tail -n "${TAIL:-30}" "$log" >&2
        if grep -qE 'Release file .* (expired|is not valid)' "$log"; then
            fail "the mirror's index is out of date; name another mirror with MIRROR=, or accept it with ALLOW_OUTDATED=1"
        elif grep -q 'No space left on device' "$log"; then
            fail "no space left below $CACHE; free some, or name another folder with ASHMEM_CACHE="
        fi
        fail "step '$name' failed (above: the end of $log)"
        ;;
    esac
}

# A made thing is whole when its stamp names the place where it was made: kernel
# build trees know their own path, so a cache that was moved starts anew. The
# stamp is the last to come and the first to go.
whole() { [[ -r $1.whole && $(<"$1.whole") == "$1" ]]; }
mark_whole() { printf '%s\n' "$1" >"$1.whole"; }
unmake() {
    rm -f "$1.whole"
    rm -rf --one-file-system "$1"
}

# lock NAME: from here to the end of this script no other run does what NAME
# stands for.
lock() {
    local fd
    mkdir -p "$CACHE/locks"
    exec {fd}>"$CACHE/locks/$1"
    if ! flock --nonblock "$fd"; then
        say "$1: waiting for another run to finish this"
        flock "$fd"
    fi
}

# prune DAYS FOLDER: unmakes what was made in a folder of the cache so long ago.
prune() {
    local stamp
    find "$CACHE/$2" -maxdepth 1 -name '*.whole' -mtime "+$1" | while read -r stamp; do
        unmake "${stamp%.whole}"
    done
}

# Rights. ----------------------------------------------------------------------

# need_root "$@": goes on as root, starting this script again with sudo where it
# must, and in a process namespace of its own.
need_root() {
    if ((EUID)); then
        with_sudo "$@"
    fi
    [[ ${ASHMEM_CONTAINED-} ]] || contain "$@"
    # Held until this script ends: `make distclean` looks at it.
    mkdir -p "$CACHE/locks" 2>/dev/null ||
        fail "cannot write to $CACHE; name another folder with ASHMEM_CACHE="
    exec {IN_USE}>"$CACHE/locks/cache"
    [[ ${0##*/} == clean ]] || flock --shared "$IN_USE"
}

with_sudo() {
    local pass=() name
    for name in "${PASSED_ON[@]}"; do
        [[ ! -v $name ]] || pass+=("$name=${!name}")
    done
    command -v sudo >/dev/null ||
        fail "root rights are needed (mmdebstrap and chroot): run this as root, or install sudo"
    if [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; then
        fail "root rights are needed (mmdebstrap and chroot): run this as root, or let sudo work without a password"
    fi
    exec sudo -- env "${pass[@]}" "$SCRIPTS/${0##*/}" "$@"
}

# When this shell ends, however it ends, the kernel ends all that it started:
# nothing is left that builds on, or holds a lock.
contain() {
    local inside status=0 propagation=private
    [[ -e /proc/self ]] || fail "/proc is missing here: mount -t proc proc /proc"
    # In a mere chroot "/" is not a mount point, and cannot be made private.
    unshare --mount --propagation private true 2>/dev/null || propagation=unchanged
    ASHMEM_CONTAINED=yes env --default-signal=INT,QUIT setpriv --pdeathsig KILL \
        unshare --mount --propagation "$propagation" --mount-proc --pid --fork --kill-child -- \
        "$0" "$@" <&0 &
    inside=$!
    # Ctrl-C reaches those inside as well, and they end in their own way.
    trap : INT QUIT
    trap 'kill -KILL $inside; wait $inside 2>/dev/null || exit 143' TERM HUP
    while :; do
        wait "$inside" && status=0 || status=$?
        kill -0 "$inside" 2>/dev/null || break
    done
    # There, what scripts/enter binds first may have come through to here.
    [[ $propagation == private ]] || umount --lazy "$CACHE"/root-*/ 2>/dev/null || true
    exit "$status"
}
# As process 1 of its namespace a shell gets a signal only if it asked for it.
if (($$ == 1)); then
    trap 'exit 130' INT QUIT
    trap 'exit 143' TERM HUP
fi

# Kernels. ---------------------------------------------------------------------

# A kernel is called stock, stock:SUITE, stock:SUITE:SERIES (stock:trixie-backports:7.2) or debug.

# The suites of Debian that have a kernel 7.x. What is called stock is that of the first.
SUITES=(trixie-backports forky sid)

# use_source KERNEL: sets SUITE, SERIES_WANTED (if one is), APT, the folder of an apt that knows this
# suite only, and NEWEST, the file that scripts/source writes; and, once it did, RELEASE, SERIES,
# VERSION and SOURCE.
# shellcheck disable=SC2034 # for who sources this
use_source() {
    local form='^(debug|stock(:([a-z-]+)(:([0-9]+\.[0-9]+))?)?)$' suites known=
    printf -v suites ' %s' "${SUITES[@]}"
    if [[ $1 =~ $form ]]; then
        SUITE=${BASH_REMATCH[3]:-${SUITES[0]}} SERIES_WANTED=${BASH_REMATCH[5]}
        [[ "$suites " != *" $SUITE "* ]] || known=yes
    fi
    [[ $known ]] ||
        fail "KERNEL is '$1'; there are stock, debug, stock:SUITE and stock:SUITE:SERIES, as stock:${SUITES[0]}:7.2, with one of these suites:$suites"
    APT=$CACHE/apt
    [[ $SUITE == "${SUITES[0]}" ]] || APT+=-$SUITE
    NEWEST=$CACHE/kernels/newest
    [[ $1 == debug ]] || NEWEST+=${1#stock}
    [[ -r $NEWEST ]] || return 1
    # shellcheck source=/dev/null
    . "$NEWEST"
    SOURCE=$CACHE/kernels/$RELEASE
}

# use_root KERNEL: as use_source, and sets CC, the compiler that the stock kernel names as its own,
# and KERNEL_ROOT, where it and its modules are built: Rust takes metadata of its very version only,
# so that the kernels of another Debian have a root of that Debian's compilers.
# shellcheck disable=SC2034 # for who sources this
use_root() {
    use_source "$1" && [[ -r $SOURCE/config ]] || return 1
    CC=$(sed -nE 's/^CONFIG_CC_VERSION_TEXT="([^ ]+) .*/\1/p' "$SOURCE/config")
    KERNEL_ROOT=$ROOT
    [[ $SUITE == trixie-backports ]] ||
        KERNEL_ROOT=$CACHE/root-$SUITE-$(hash_of_text "$CC $(hash_of "$SCRIPTS/kernel.packages" "$SCRIPTS/root")")
}

# use_kernel KERNEL: as use_root, and sets KDIR, KIMG and KMAKE (what `make` needs besides). Reads
# the cache only; says no when the kernel was never looked up.
# shellcheck disable=SC2034 # for who sources this
use_kernel() {
    local recipes=("$SCRIPTS/inside/kernel-${1%%:*}") tools
    use_root "$1" || return 1
    tools=$KERNEL_ROOT.tools
    [[ -r $tools ]] || return 1
    case $1 in
    stock*)
        recipes+=("$TREE/packaging/kernel-tree")
        KDIR=$CACHE/kernels/stock-$RELEASE-$(hash_of "${recipes[@]}" "$tools")
        KIMG=$SOURCE/vmlinuz
        KMAKE=("CC=$CC" "HOSTCC=${CC#x86_64-linux-gnu-}" LOCALVERSION= "KERNELRELEASE=$RELEASE")
        ;;
    debug)
        recipes+=("$tools" "$TREE/qemu/debug.config")
        KDIR=$CACHE/kernels/debug-$RELEASE-$(hash_of "${recipes[@]}")
        KIMG=$KDIR/arch/x86/boot/bzImage
        KMAKE=(LLVM=1 LOCALVERSION=)
        ;;
    esac
}

# use_module KERNEL: as use_kernel, and sets KO.
# shellcheck disable=SC2034 # for who sources this
use_module() {
    use_kernel "$1" || return 1
    MODULE=$CACHE/modules/${KDIR##*/}-$(hash_of_tree driver Kbuild)
    KO=$MODULE/ashmem.ko
}

# What steps, logs and the runner call a kernel: it becomes a file's name.
name_of() { printf '%s\n' "${1//:/-}"; }

# Programs. --------------------------------------------------------------------

# cargo's folder for this work tree, below the cache: it knows what is new by
# the sources' times, so no two trees may share it.
TARGET=target-$(hash_of_text "$TREE $ROOT")

# use_programs: sets PROGRAMS, the folder of `guest`, `runner` and `files`, the
# tree that goes into the guest.
# shellcheck disable=SC2034 # for who sources this
use_programs() {
    CARGO_TARGET_DIR=$CACHE/$TARGET
    [[ -r $ROOT.tools ]] || return 1
    PROGRAMS=$CACHE/bin/$(hash_of_tree Cargo.toml Cargo.lock ashmemctl client figures userspace-tests qemu driver/include scripts/inside/client)-$(hash_of "$SCRIPTS/programs" "$TREE/docs/EXAMPLES.md" "$TREE/docs/bench.json" "$ROOT.tools" <(sed -n '/<!-- ctl: begin/,/<!-- ctl: end/p' "$TREE/README.md"))
}

# use_client: sets CLIENT, the folder of the C library and its header.
# shellcheck disable=SC2034 # for who sources this
use_client() {
    CARGO_TARGET_DIR=$CACHE/$TARGET
    [[ -r $ROOT.tools ]] || return 1
    CLIENT=$CACHE/client/$(hash_of_tree Cargo.toml Cargo.lock client driver/include scripts/inside/client)-$(hash_of "$ROOT.tools")
}

# What the package is made from.
PACKAGED=(Cargo.lock Cargo.toml Kbuild LICENSE README.md ashmemctl client debian driver figures packaging qemu userspace-tests)

# use_package: sets PACKAGE, the folder of the Debian package.
# shellcheck disable=SC2034 # for who sources this
use_package() {
    [[ -r $ROOT.tools ]] || return 1
    PACKAGE=$CACHE/deb/$(hash_of_tree "${PACKAGED[@]}")-$(hash_of "$SCRIPTS/deb" "$SCRIPTS/inside/deb" "$TREE/driver/ashmem.4" "$TREE/ashmemctl/ashmemctl.8" "$ROOT.tools")
}

# use_debian: sets DEBIAN, the folder of a whole Debian and its packages.
# shellcheck disable=SC2034 # for who sources this
use_debian() {
    [[ -r $ROOT.tools ]] || return 1
    DEBIAN=$CACHE/debian-$(hash_of "$SCRIPTS/debian" "$TREE/debian/control")
}

# examples: the names of the example programs, a line each.
examples() { (cd "$TREE/client/examples" && printf '%s\n' *.rs */main.rs | sed '/\*/d; s|/main.rs$||; s|\.rs$||' | sort); }

# What no tool here could bear.
case $TREE$CACHE in
*[[:space:]:\'\"\\]*) fail "kbuild cannot cope with blanks, colons or quotes in a path; move the work tree ($TREE) or the cache ($CACHE)" ;;
esac
