"""A network of hosts: a bridge with an address range of its own, and a way out for packages by masquerading."""

import contextlib
import fcntl
import ipaddress
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.hosts.container import Container
from tests.support.hosts.machine import HostsError, missing, run
from tests.support.hosts.rootfs import RELEASES, root_file_system

# On a disk, and not in the clone: a network outlives neither `down` nor the machine, but perhaps the clone.
STATE = Path(os.environ.get("METABUILDER_HOSTS", "/var/tmp/metabuilder-hosts"))
_POOL = ipaddress.ip_network("10.230.0.0/16")
_FIRST_HOST = 11
_BOOT_SECONDS = 300  # a quiet machine needs a few
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
# A bridge's name has at most 15 characters, `mbt-` included.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,10}")


@dataclass(frozen=True)
class Host:
    """A host by name, Debian release and address."""

    name: str
    release: str
    address: str


class Network:
    """A network that is up, or was: `down` also removes what is left of one."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise HostsError(f"{name!r} cannot name a network: a-z, 0-9 and -, at most 11 characters")
        self.name = name
        self.folder = STATE / name
        self.ssh_config = self.folder / "ssh_config"
        self.inventory = self.folder / "inventory.json"
        self.key = self.folder / "id_ed25519"
        self.bridge = f"mbt-{name}"
        self.table = f"test_hosts_{name.replace('-', '_')}"

    @property
    def state(self) -> dict[str, Any]:
        """Address range and hosts, as they were asked for."""
        try:
            return dict(json.loads((self.folder / "state.json").read_text()))
        except FileNotFoundError:
            raise HostsError(f"there is no network {self.name!r}; there are: {' '.join(names()) or 'none'}") from None

    @property
    def hosts(self) -> list[Host]:
        return [Host(**host) for host in self.state["hosts"]]

    def container(self, host: str) -> Container:
        """A host's container. Raises HostsError when the network has no such host."""
        if host not in [known.name for known in self.hosts]:
            raise HostsError(f"the network {self.name!r} has no host {host!r}")
        return Container(self.folder / "hosts" / host, f"{self.name}-{host}", host, self.bridge)

    def up(self, hosts: list[tuple[str, str]], subnet: str | None = None) -> None:
        """Make the network and boot its hosts, given as (name, release), until ssh answers in all of them."""
        if wanting := missing():
            raise HostsError("this machine cannot have test hosts: " + "; ".join(wanting))
        lower = {release: root_file_system(_known(release)) for _, release in hosts}
        with _locked():
            self._record(hosts, subnet)
            self._make_bridge()
        for host in self.hosts:
            container = self.container(host.name)
            container.make(lower[host.release], self._files(host))
            container.start()
        for host in self.hosts:
            self.wait(host.name)

    def down(self) -> None:
        """Remove the network and all of its hosts, as far as they exist."""
        if not self.folder.exists():
            return
        if (self.folder / "state.json").exists():
            for host in self.hosts:
                self.container(host.name).remove()
        for socket in self.folder.glob("control-*"):
            with contextlib.suppress(HostsError):  # it has ended by itself
                run("ssh", "-o", f"ControlPath={socket}", "-O", "exit", "host")
        with _locked():
            for command in (
                ("ip", "link", "delete", self.bridge),
                ("nft", "delete", "table", "ip", self.table),
                ("nft", "delete", "table", "bridge", self.table),
            ):
                with contextlib.suppress(HostsError):  # it was never made
                    run(*command)
            shutil.rmtree(self.folder)
            if not names():
                _restore_forwarding()

    def ssh(self, host: str, command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell command in a host, as root."""
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), host, command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def wait(self, host: str) -> None:
        """Wait until a host has booted. Raises HostsError with its console's last lines when it does not."""
        deadline = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < deadline:
            if self.ssh(host, "systemctl is-system-running --wait").stdout.strip() in ("running", "degraded"):
                return
            time.sleep(0.1)
        console = (self.container(host).folder / "console.log").read_text(errors="replace")
        raise HostsError(f"{host} has not booted within {_BOOT_SECONDS} s: {console[-1500:]}")

    def reboot(self, *hosts: str) -> None:
        """Reboot hosts as an operator would, and wait until they are back."""
        before = {host: self._boot_id(host) for host in hosts}
        for host in hosts:
            self.ssh(host, "systemctl reboot")
        deadline = time.monotonic() + _BOOT_SECONDS
        while waiting := [host for host in hosts if self._boot_id(host) in ("", before[host])]:
            if time.monotonic() > deadline:
                raise HostsError(f"{', '.join(waiting)} did not come back from a reboot within {_BOOT_SECONDS} s")
            time.sleep(0.2)
        for host in hosts:
            self.wait(host)

    def _boot_id(self, host: str) -> str:
        # The kernel's boot_id is this machine's; when the host's systemd started tells its boots apart.
        return self.ssh(host, "systemctl show --property=UserspaceTimestampMonotonic --value").stdout.strip()

    def _record(self, hosts: list[tuple[str, str]], subnet: str | None) -> None:
        if self.folder.exists():
            raise HostsError(f"the network {self.name!r} exists already: take it down first")
        network = _free_network(subnet)
        addresses = [str(network[_FIRST_HOST + number]) for number in range(len(hosts))]
        state = {
            "network": str(network),
            "hosts": [
                {"name": name, "release": release, "address": address}
                for (name, release), address in zip(hosts, addresses, strict=True)
            ],
        }
        self.folder.mkdir(parents=True, mode=0o700)
        (self.folder / "state.json").write_text(json.dumps(state, indent=2))

    def _make_bridge(self) -> None:
        network = ipaddress.ip_network(str(self.state["network"]))
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{network[1]}/{network.prefixlen}", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        _forward()
        run("nft", "-f", "-", stdin=_MASQUERADE.format(table=self.table, network=network))
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test hosts", "-f", self.key)
        self.ssh_config.write_text(_SSH.format(folder=self.folder) + "".join(map(self._ssh_host, self.hosts)))
        # Hosts of two networks may have one name: connections that Ansible keeps open are the network's own.
        connection = {
            "ansible_user": "root",
            "ansible_ssh_common_args": f"-F {self.ssh_config}",
            # Mitogen asks Ansible and not the ssh_config whether to know a host before.
            "ansible_host_key_checking": False,
            "ansible_control_path": f"{self.folder}/control-%%h",
        }
        inventory = {host.name: {"ansible_host": host.address, **connection} for host in self.hosts}
        self.inventory.write_text(json.dumps({"all": {"hosts": inventory}}, indent=2))

    @staticmethod
    def _ssh_host(host: Host) -> str:
        return f"Host {host.name} {host.address}\n    HostName {host.address}\n"

    def _files(self, host: Host) -> dict[str, tuple[str, int]]:
        """What makes a host of a root file system: path, content, mode."""
        network = ipaddress.ip_network(str(self.state["network"]))
        names = "".join(f"{other.address} {other.name}\n" for other in self.hosts)
        address = f"[Network]\nAddress={host.address}/{network.prefixlen}\nGateway={network[1]}\n"
        return {
            "etc/machine-id": (f"{uuid.uuid4().hex}\n", 0o444),
            "etc/hostname": (f"{host.name}\n", 0o644),
            "etc/hosts": (f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{names}", 0o644),
            "etc/resolv.conf": (_resolvers(), 0o644),
            "etc/systemd/network/10-host0.network.d/address.conf": (address, 0o644),
            # As strict as hosts are made: what comes over ssh inherits it, so a mode that nobody sets shows.
            "etc/systemd/system/ssh.service.d/umask.conf": ("[Service]\nUMask=0077\n", 0o644),
            # One that the host does not have, as where a person's laptop named it when the host was made.
            "etc/default/locale": ("LANG=de_DE.ISO-8859-1\n", 0o644),
            "root/.ssh/authorized_keys": (self.key.with_suffix(".pub").read_text(), 0o600),
        }


_MASQUERADE = """\
table ip {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {network} ip daddr != {network} masquerade
    }}
}}
"""

# A host's key is known to nobody before it has booted, and its address belongs to another host tomorrow. The first
# login stays open for the next ones: tests look at hosts some hundred times, and each login takes 0.15 s here alone.
_SSH = """\
Host *
    User root
    ControlMaster auto
    ControlPersist 120
    ControlPath {folder}/control-%h
    IdentityFile {folder}/id_ed25519
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
    ConnectTimeout 5
    ServerAliveInterval 5
    ServerAliveCountMax 3
"""


def names() -> list[str]:
    """The networks that are up, or of which something is left."""
    return sorted(path.parent.name for path in STATE.glob("*/state.json"))


def _known(release: str) -> str:
    if release not in RELEASES:
        raise HostsError(f"no Debian release {release!r} here: {' or '.join(RELEASES)}")
    return release


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """What all networks share is changed by one process at a time."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _free_network(wanted: str | None) -> ipaddress.IPv4Network:
    taken = [ipaddress.ip_network(part) for part in run("ip", "-4", "route").split() if "/" in part]
    taken += [ipaddress.ip_network(str(Network(name).state["network"])) for name in names()]
    candidates = [ipaddress.ip_network(wanted)] if wanted else _POOL.subnets(new_prefix=24)
    for network in candidates:
        if isinstance(network, ipaddress.IPv4Network) and not any(network.overlaps(other) for other in taken):
            return network
    raise HostsError(f"{wanted or _POOL} is taken: ip -4 route")


def _forward() -> None:
    """Turn on IPv4 forwarding, and remember what it was."""
    remembered = STATE / "ip_forward"
    if not remembered.exists():
        remembered.write_text(_FORWARDING.read_text())
    _FORWARDING.write_text("1")


def _restore_forwarding() -> None:
    remembered = STATE / "ip_forward"
    if remembered.exists():
        _FORWARDING.write_text(remembered.read_text())
        remembered.unlink()


def _resolvers() -> str:
    """This machine's name servers; those behind a resolver of its own, which a host could not reach."""
    behind = Path("/run/systemd/resolve/resolv.conf")
    return (behind if behind.exists() else Path("/etc/resolv.conf")).read_text()
