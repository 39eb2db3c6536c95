"""Test hosts: machines that really boot systemd, as containers of systemd-nspawn on a bridge of their own.

    python -m tests.support.hosts up NAME --host web1:bookworm --host db1:trixie
    python -m tests.support.hosts ssh NAME web1 systemctl status
    python -m tests.support.hosts down NAME

Several networks can be up side by side. What a network consists of is written to its state file before it is made, so
that `down` removes all of it also after an interruption.
"""
