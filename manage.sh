#!/usr/bin/env bash
# One command for everything an operator does by hand: ./manage.sh help
# Makes .venv on first use from the locked requirements, then hands over to `python -m manage`.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd -P)
VENV=$ROOT/.venv

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }

# The verbs that need Ansible, the linters, the test tools, the benchmarks' plotting, or uv.
case ${1:-help} in
    setup | test | dev:test | bench | lock | release | secrets | docs | preflight | -i* | --inventory* | --limit* | -K* | --ask-*) NEEDS=dev ;;
    *) NEEDS=native ;;
esac

is_current() { # LEVEL: whether .venv holds exactly what that lock file asks for
    [[ -x $VENV/bin/python && ! -e $VENV/.installing && -r $VENV/.locked-$1 ]] &&
        [[ $(<"$VENV/.locked-$1") == "$(checksum "$1")" ]]
}

checksum() { sha256sum <"$ROOT/requirements-$1.txt"; }

install_with_apt() { # WHY PACKAGE...: as root installs, otherwise says how to
    local why=$1
    shift
    command -v apt-get >/dev/null || fail "$why. Install it with the package manager of this system, then try again."
    [[ $EUID -eq 0 ]] || fail "$why. As root, run: apt-get update && apt-get install -y $*"
    say "$why: installing $* with apt-get …"
    local log
    log=$(mktemp)
    if ! { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$@"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "apt-get could not install $*"
    fi
    rm -f "$log"
}

find_python() { # prints the first Python that is new enough
    local name
    for name in python3 python3.11 python3.12 python3.13; do
        if "$name" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

make_venv() {
    local python version
    if ! python=$(find_python); then
        install_with_apt "Python 3.11 or newer is not installed" python3 python3-venv
        python=$(find_python) || fail "the python3 of this system is older than 3.11: install Python 3.11 or newer"
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        install_with_apt "Python's venv module is missing" "python$version-venv"
    say "Making .venv with Python $version …"
    # --clear throws away what an interrupted run may have left behind.
    "$python" -m venv --clear "$VENV" || fail "Python could not make $VENV"
}

install_packages() {
    [[ -w $ROOT && (! -e $VENV || -w $VENV) ]] ||
        fail "$ROOT cannot be written by $(id -un): use a clone of your own, or run this as $(stat -c %U "$ROOT")"
    # An install that was interrupted may have left half a package that pip would take for a whole one.
    [[ -x $VENV/bin/python && ! -e $VENV/.installing ]] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 ||
        make_venv
    say "Installing $(grep -c '^[a-z]' "$ROOT/requirements-$NEEDS.txt") locked packages into .venv (a minute or so the first time) …"
    touch "$VENV/.installing"
    rm -f "$VENV"/.locked-*
    # Twice quiet: only errors, not what pip thinks of this machine's configuration.
    "$VENV/bin/python" -m pip install -q -q --disable-pip-version-check \
        --no-input --root-user-action=ignore --no-deps --require-hashes -r "$ROOT/requirements-$NEEDS.txt" >&2 ||
        fail "pip could not install the locked packages (see above). Run the same command again to try once more."
    [[ $NEEDS == native ]] || checksum native >"$VENV/.locked-native"
    checksum "$NEEDS" >"$VENV/.locked-$NEEDS"
    rm -f "$VENV/.installing"
}

if [[ $* == rebuild ]]; then
    # As much as there was; the programs that run from it are stopped first.
    [[ ! -e $VENV/.locked-dev ]] || NEEDS=dev
    ! is_current "$NEEDS" || (cd -- "$ROOT" && "$VENV/bin/python" -m manage down)
    mkdir -p "$VENV"
    touch "$VENV/.installing"
fi

if ! is_current "$NEEDS"; then
    [[ -z ${_METABUILDER_COMPLETE-} ]] || exit 1 # a shell that completes a word does not install
    # The lock is on this file, which is always there; whoever comes second finds the work done.
    exec 9<"$ROOT/manage.sh"
    flock --nonblock 9 || { say "Waiting for another ./manage.sh that is installing …"; flock 9; }
    is_current "$NEEDS" || install_packages
    exec 9<&-
fi

cd -- "$ROOT"
exec "$VENV/bin/python" -m manage "$@"
