"""Draining is by observation: who is connected, from the kernel's own table."""

from __future__ import annotations

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._systemd import connections, is_release_unit

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


@pytest.mark.parametrize(
    ("unit", "ours"),
    [
        ("portal-0001-1.0.0-web.service", True),
        ("portal-12345-2.0.0-rc.1-worker.service", True),
        ("portal-2-0001-1.0.0-web.service", False),
        ("portal-2026-0001-1.0.0-web.service", False),
        ("other-0001-1.0.0-web.service", False),
    ],
)
def test_a_neighbour_with_a_similar_name_is_not_taken_for_ours(unit, ours):
    assert is_release_unit("portal", unit) is ours
