"""The journals of all hosts on one host: with their fields, over TLS, from hosts of the site alone, none lost."""

import json
import shlex
import time

from testinfra.host import Host

from tests.support.site import Site, main_pid, reaches, wait_active
from tests.support.worker import wait_until

PORT = 19532
COLLECTOR = "metabuilder-log-collector"


def collected(collector: Host, *matches: str) -> list[dict[str, str]]:
    """The lines of other hosts that have these fields."""
    words = " ".join(map(shlex.quote, matches))
    said = collector.check_output(f"journalctl --directory=/var/log/journal/remote -o json --no-pager -n 20 {words}")
    return [json.loads(line) for line in said.splitlines()]


def test_lines_of_a_worker_are_found_with_their_fields(site: Site, collector: Host) -> None:
    for name in site.group("celery_workers"):
        matches = (f"_HOSTNAME={name}", "METABUILDER_TASK=queue_waiting_mail")
        wait_until(lambda found=matches: collected(collector, *found), f"{name}'s lines are not collected", 60)
        *_, line = collected(collector, *matches)
        assert line["SYSLOG_IDENTIFIER"] == "celery-worker"
        assert line["METABUILDER_TASK_ID"] in line["MESSAGE"]


def test_no_line_is_lost_while_the_collector_is_away(site: Site, collector: Host) -> None:
    sender, word = site.first("redis"), f"collected-{time.time_ns()}"
    collector.check_output(f"systemctl stop {COLLECTOR}")
    try:
        sender.check_output(f"logger {word}-first")
        # Long enough for the sender to see that it is away
        wait_until(
            lambda: sender.check_output("systemctl show -p ActiveState --value systemd-journal-upload") != "active",
            "the sender does not notice",
        )
        sender.check_output(f"logger {word}-second")
    finally:
        collector.check_output(f"systemctl start {COLLECTOR}")
    for line in (f"{word}-first", f"{word}-second"):
        wait_until(lambda found=line: collected(collector, f"MESSAGE={found}"), f"{line} is lost", 60)


def test_it_takes_nothing_from_others(site: Site, collector: Host) -> None:
    address = site.address(site.group("log_collection")[0])
    assert not reaches(site.first("mail"), address, PORT)
    # Nor from a host of the site that shows no certificate, or one that is not for clients
    sender, word = site.first("redis"), f"forged-{time.time_ns()}"
    tls = "/etc/metabuilder/tls"
    shown = {"none": "", "for servers": f"-cert {tls}/redis.crt -key {tls}/redis.key"}
    entry = f"__REALTIME_TIMESTAMP={time.time_ns() // 1000}\\n_BOOT_ID={'0' * 31}1\\nMESSAGE={word}\\n\\n"
    head = "POST /upload HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/vnd.fdo.journal\\r\\nContent-Length:"
    request = f"{head} {len(entry.encode().decode('unicode_escape'))}\\r\\n\\r\\n{entry}"

    def sent(certificate: str) -> str:
        command = f"openssl s_client -quiet -connect {address}:{PORT} -CAfile {tls}/ca.crt {certificate}"
        return str(sender.run(f"(printf {shlex.quote(request)}; sleep 2) | timeout 10 {command} 2>/dev/null").stdout)

    assert {name: sent(certificate) for name, certificate in shown.items()} == {"none": "", "for servers": ""}
    # though what was sent is a line, which a host of the site may send
    own = f"-cert {tls}/log_sender.crt -key {tls}/log_sender.key"
    wait_until(lambda: "202" in sent(own), "a host of the site is refused")
    wait_until(lambda: collected(collector, f"MESSAGE={word}"), "what a host of the site sends is not taken")


def test_one_that_hangs_is_restarted(collector: Host) -> None:
    drop_in = f"/run/systemd/system/{COLLECTOR}.service.d"
    quick = "printf '[Service]\\nWatchdogSec=10\\n'"
    collector.check_output(f"mkdir -p {drop_in} && {quick} >{drop_in}/quick.conf && systemctl daemon-reload")
    try:
        collector.check_output(f"systemctl restart {COLLECTOR}")
        now, pid = collector.check_output("date +%s"), main_pid(collector, COLLECTOR)
        collector.check_output(f"kill -STOP {pid}")
        wait_active(collector, COLLECTOR, not_pid=pid)
        said = collector.check_output(f"journalctl --no-pager -o cat --since=@{now} -u {COLLECTOR}")
        assert f"{COLLECTOR}.service: Watchdog timeout" in said
        # It is asked again and again, which is no line of its own
        assert "stunnel" not in said.partition("Watchdog timeout")[0], said
    finally:
        collector.check_output(f"rm -r {drop_in} && systemctl daemon-reload && systemctl restart {COLLECTOR}")


def test_what_is_old_is_removed(collector: Host) -> None:
    assert collector.check_output("systemctl is-enabled metabuilder-log-vacuum.timer") == "enabled"
    collector.check_output("systemctl start metabuilder-log-vacuum.service")
