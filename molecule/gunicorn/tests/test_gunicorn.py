"""The configuration that releases start gunicorn with."""

from __future__ import annotations

from testinfra.host import Host


def test_the_configuration_is_python(host: Host) -> None:
    done = host.run("python3 -c 'import runpy; runpy.run_path(\"/etc/backstay/gunicorn.conf.py\")'")
    assert done.rc == 0, done.stderr
    assert host.file("/etc/backstay").mode == 0o700, "beside it lie the secrets of the applications"


def test_the_directory_above_the_sockets_is_there_at_boot(host: Host) -> None:
    host.run("rmdir /run/harbour; systemd-tmpfiles --create")
    directory = host.file("/run/harbour")
    assert (directory.is_directory, directory.mode, directory.user) == (True, 0o755, "root")
