"""One host: systemd-nspawn that boots an overlay of a root file system."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.support.hosts.machine import HostsError, run

_GONE_SECONDS = 120
# nspawn ends with this status when the host has rebooted, and leaves it to its caller to start it again.
_BOOT_AGAIN = 'while "$@"; test $? = 133; do :; done'
_CGROUPS = Path("/sys/fs/cgroup")


class Container:
    """What runs below `folder`; all that is known about it between two commands is in files there."""

    def __init__(self, folder: Path, name: str, hostname: str, bridge: str) -> None:
        self.folder, self.name, self.hostname, self.bridge = folder, name, hostname, bridge
        self.root = folder / "root"
        self._pid_file = folder / "pid"

    def make(self, lower: Path, files: dict[str, tuple[str, int]]) -> None:
        """Lay an empty layer over the root file system `lower`, and write `files` (path: content, mode) into it."""
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True)
        # Volatile: nothing waits for this machine's disk. A host that is killed keeps what it wrote all the same.
        layers = f"lowerdir={lower},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'},volatile"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        for name, (content, mode) in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o755 if mode & 0o044 else 0o700)
            path.unlink(missing_ok=True)  # what it links to may lie outside
            path.write_text(content)
            path.chmod(mode)

    def start(self) -> None:
        """Boot it, in the background. Nothing to do when it runs."""
        if self.is_running():
            return
        command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "-D", str(self.root)]
        command += ["-M", self.name, f"--hostname={self.hostname}", f"--network-bridge={self.bridge}"]
        command += ["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"]
        with (self.folder / "console.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._delegated(), "sh", "-c", _BOOT_AGAIN, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid_file.write_text(f"{process.pid} {_started(process.pid)}")

    def _delegated(self) -> list[str]:
        """What gives it control groups of its own: a scope where systemd runs, otherwise groups made here."""
        if Path("/run/systemd/system").exists():
            return ["systemd-run", "--quiet", "--scope", "--property=Delegate=yes", f"--unit=test-host-{self.name}"]
        joins = []
        for group in self._groups():
            group.mkdir(exist_ok=True)
            joins.append(f"echo $$ >{group}/cgroup.procs")
        return ["sh", "-c", " && ".join([*joins, 'exec "$@"']), "sh"]

    def _groups(self) -> list[Path]:
        hierarchies = (_CGROUPS, _CGROUPS / "unified", _CGROUPS / "systemd")
        return [path / f"test-host-{self.name}" for path in hierarchies if (path / "cgroup.procs").exists()]

    def is_running(self) -> bool:
        """Whether the container's process lives; its number alone could be another's by now."""
        try:
            pid, started = self._pid_file.read_text().split()
        except (OSError, ValueError):
            return False
        return _started(int(pid)) == started

    def kill(self) -> None:
        """Cut the power: SIGKILL, and wait until nothing of it runs. What was written to its disk stays."""
        if self.is_running():
            os.killpg(int(self._pid_file.read_text().split()[0]), signal.SIGKILL)
        deadline = time.monotonic() + _GONE_SECONDS
        while self.is_running() or self._processes():
            if time.monotonic() > deadline:
                raise HostsError(f"{self.name}: processes {self._processes()} do not end")
            for pid in self._processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        with contextlib.suppress(HostsError):  # the kernel may have removed it already, and would only later
            run("ip", "link", "delete", f"vb-{self.name}")
        self._remove_groups()

    def remove(self) -> None:
        """End it and remove its disk."""
        self.kill()
        while str(self.root) in Path("/proc/self/mounts").read_text().split():
            run("umount", self.root)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        """What runs in its control groups."""
        members = (path.read_text().split() for group in self._groups() for path in group.rglob("cgroup.procs"))
        return sorted({int(pid) for pids in members for pid in pids})

    def _remove_groups(self) -> None:
        for group in self._groups():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()


def _started(pid: int) -> str:
    """When a process was started, in clock ticks since the machine was; empty when it is not there or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
