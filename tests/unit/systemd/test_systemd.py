"""Draining is by observation: who is connected, from the kernel's own table."""

from __future__ import annotations

from ansible_collections.backstay.ops.plugins.module_utils._systemd import connections

TABLE = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/a/0001-1.0.0/web.sock
0000000000000000: 00000003 00000000 00000000 0001 03 101 /run/a/0001-1.0.0/web.sock
0000000000000000: 00000003 00000000 00000000 0001 03 102
0000000000000000: 00000002 00000000 00000000 0001 02 103 /run/a/0001-1.0.0/web.sock
0000000000000000: 00000003 00000000 00000000 0001 03 104 /run/a/0002-1.1.0/web.sock
"""


def test_accepted_and_waiting_connections_count_and_the_listener_does_not():
    assert connections(TABLE, "/run/a/0001-1.0.0/web.sock") == 2
    assert connections(TABLE, "/run/a/0002-1.1.0/web.sock") == 1
    assert connections(TABLE, "/run/a/0003-1.2.0/web.sock") == 0
