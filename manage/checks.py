"""`test`: linters, types, import rules, then all tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, STDOUT

import click

from manage.ansible_lint import AnsibleLint
from manage.examples import example
from manage.output import complain, say

# Programs that the tests start and pip does not install, each with the Debian package that has it.
_PACKAGES = {
    "dovecot": "dovecot-imapd",
    "pop3-login": "dovecot-pop3d",
    "mbsync": "isync",
    "offlineimap": "offlineimap3",
    "spamd": "spamd",
    "rspamd": "rspamd",
    # Shows hostile HTML, sanitised and not.
    "chromium": "chromium",
    # The program is redis-server under another name, and its package starts no service.
    "redis-check-rdb": "redis-tools",
    "faketime": "faketime",
    # Shells that complete the verbs.
    "zsh": "zsh",
    "fish": "fish",
    # Adminer depends on a way to run PHP, of which php-cgi starts no server.
    "php": "php-cli",
    "php-cgi": "php-cgi",
    # Redis Commander.
    "node": "nodejs",
    # The test hosts of the Molecule scenarios.
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
}
# The same for files that are no programs, as patterns below /.
_FILES = {
    "usr/share/adminer/adminer.php": "adminer",
    "etc/php/*/cli/conf.d/*-pgsql.ini": "php-pgsql",
}
# Tests run in two processes, whole files in the order of collection. More would keep two cores no busier, and tests
# with time limits would fail.
_SIDE_BY_SIDE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
_QUICK = ("-q", *_SIDE_BY_SIDE, "tests/unit", "tests/contract")
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/dovecot"


@example("test --quick", "test tests/unit/manage -q")
@click.command(name="test", context_settings={"ignore_unknown_options": True})
@click.option("--quick", is_flag=True, help="Only the linters and the unit and contract tests: a minute or two.")
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(quick: bool, pytest_arguments: tuple[str, ...]) -> None:
    """Run linters, type checks, import rules and all tests. What follows is passed to pytest.

    As root, Debian packages that the tests need and that are missing are installed first.
    """
    from native.state import ROOT

    failed = [] if _packages_are_there() else ["packages"]
    ansible_lint = AnsibleLint(ROOT)
    failed += _lint(ROOT)
    if failed:
        complain(f"failed so far: {', '.join(failed)}")
    say("── pytest")
    arguments = (*_QUICK, *pytest_arguments) if quick else pytest_arguments or _SIDE_BY_SIDE
    # pytest's summary is the last line, unless ansible-lint, which runs beside pytest, has a finding.
    tests = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=_environment(), check=False)
    is_well, said = ansible_lint.finish()
    if not is_well:
        say("── ansible-lint")
        complain(said)
        complain("failed: ansible-lint")
    sys.exit(1 if failed or tests.returncode or not is_well else 0)


def _lint(root: Path) -> list[str]:
    """Run the quick linters at once and print what each says, in order. Returns those that failed."""
    failed = []
    with ExitStack() as running:
        started = [
            (name, running.enter_context(subprocess.Popen(command, cwd=root, stdout=PIPE, stderr=STDOUT)))
            for name, command in _linters()
        ]
        for name, linter in started:
            said, _ = linter.communicate()
            say(f"── {name}")
            say(said.decode(errors="replace").rstrip())
            if linter.returncode:
                failed.append(name)
    return failed


def _environment() -> dict[str, str]:
    """The environment without the variable that makes each process that a test starts compile all modules anew.

    Container images of Python often set that variable.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _linters() -> list[tuple[str, list[str]]]:
    python = sys.executable
    return [
        ("ruff check", [python, "-m", "ruff", "check"]),
        ("ruff format --check", [python, "-m", "ruff", "format", "--check"]),
        ("mypy", [python, "-m", "mypy"]),
        ("lint-imports", [str(Path(python).with_name("lint-imports"))]),
    ]


def missing_packages() -> list[str]:
    """The Debian packages whose programs or files are missing on this machine."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"
    programs = [package for program, package in _PACKAGES.items() if shutil.which(program, path=path) is None]
    return programs + [package for pattern, package in _FILES.items() if not any(Path("/").glob(pattern))]


def install_missing(wanted: Collection[str] | None = None) -> list[str]:
    """Install missing packages, if this is root: those of `wanted`, or all.

    Returns the packages that are still missing.
    """
    missing = _wanted(wanted)
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(missing)
        missing = _wanted(wanted)
    return missing


def how_to_install(packages: Collection[str]) -> str:
    """The command that root has to run to install these packages."""
    return f"As root, run: apt-get update && apt-get install -y {' '.join(packages)}"


def _wanted(wanted: Collection[str] | None) -> list[str]:
    return [package for package in missing_packages() if wanted is None or package in wanted]


def _packages_are_there() -> bool:
    """Install missing packages, or say how. Returns whether the tests may go on."""
    missing = install_missing()
    if not missing:
        return True
    say(
        f"Not installed: {' '.join(missing)}. Tests that need them are skipped, or fail where CI is set. "
        f"{how_to_install(missing)}"
    )
    return not os.environ.get("CI")


def _install(packages: list[str]) -> None:
    say(f"Installing {' '.join(packages)} with apt-get …")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages]
    for command in (["apt-get", "-qq", "update"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            complain(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
            return
