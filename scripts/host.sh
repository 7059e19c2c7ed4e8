# shellcheck shell=bash
# What the host must have: a Debian, a mirror, mmdebstrap, space. Sourced by the
# scripts that fetch something; a warm cache never comes here.

# need_space GIGABYTES
need_space() {
    local free
    free=$(($(df --output=avail -BM "$CACHE" | tail -n 1 | tr -dc 0-9) / 1024))
    ((free >= $1)) ||
        fail "about $1 GB are needed below $CACHE and $free GB are free; free some, or name another folder with ASHMEM_CACHE="
}

need_debian() {
    if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
        fail "this needs Debian 12 or 13 (apt-get and dpkg are missing here): use such a machine, a container or a chroot"
    fi
    [[ $(dpkg --print-architecture) == amd64 ]] ||
        fail "this needs an amd64 machine, and this one is $(dpkg --print-architecture)"
}

# apt_installs PACKAGE...
apt_installs() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install --yes --no-install-recommends "$@" && return
    apt-get update
    apt-get install --yes --no-install-recommends "$@"
}

need_tools() {
    local missing=()
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    # Without them no download could be checked.
    [[ -e $KEYRING ]] || missing+=(debian-archive-keyring)
    command -v gpgv >/dev/null || missing+=(gpgv)
    ((${#missing[@]} == 0)) ||
        step host "installing ${missing[*]}" apt_installs "${missing[@]}"
}
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Prints the mirror: $MIRROR, or the one that the host itself uses for Debian.
find_mirror() {
    local mirror=${MIRROR-}
    [[ $mirror ]] || mirror=$(debian_targets)
    # apt's list of mirrors: any of them will do.
    if [[ $mirror == mirror+file:* ]]; then
        mirror=$(grep -vE '^[[:space:]]*(#|$)' "${mirror#mirror+file:}" | awk 'NR == 1 { print $1 }')
    fi
    printf '%s\n' "${mirror%/}"
}

# The archive of the first source whose index says "Debian"; where no index was
# ever fetched, of the first that has a release of Debian as its suite.
debian_targets() {
    # shellcheck disable=SC2016 # apt fills them in
    apt-get indextargets --format '$(LABEL)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '
            $2 != "main" || $3 ~ /security/ { next }
            $1 == "Debian" { print $4; found = 1; exit }
            $1 == "" && $3 ~ /^(bookworm|trixie|forky|sid|(old)*stable|testing|unstable)(-updates|-backports)?$/ && !guess { guess = $4 }
            END { if (!found && guess) print guess }'
}

# need_mirror: sets MIRROR, checked to answer.
need_mirror() {
    local probe
    MIRROR=$(find_mirror)
    [[ $MIRROR ]] ||
        fail "apt here knows no Debian mirror; name one with MIRROR="
    export MIRROR
    probe=$(mktemp)
    if ! /usr/lib/apt/apt-helper -o Acquire::Retries=2 -o Acquire::http::Timeout=20 \
        download-file "$MIRROR/dists/trixie/InRelease" "$probe" >/dev/null 2>&1; then
        rm -f "$probe"
        fail "the mirror $MIRROR does not answer with Debian 13 (dists/trixie): check the network and apt's proxy settings, or name another mirror with MIRROR="
    fi
    rm -f "$probe"
}

# Prints the host's apt settings for proxies and certificates, one a line, for
# the apt that works on the root.
apt_settings() {
    apt-config dump --no-empty --format '%F "%v";%n' |
        grep -iE '^(Acquire::https?::|Acquire::ftp::Proxy)' || true
    if [[ ${ALLOW_OUTDATED-} ]]; then
        printf '%s\n' 'Acquire::Check-Valid-Until "false";'
    fi
}
