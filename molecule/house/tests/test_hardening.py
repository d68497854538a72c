"""Keys alone, security updates, no compiler; and nobody is shut out by the change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from testinfra.host import Host

Module = Callable[..., "subprocess.CompletedProcess[str]"]
Becomes = Callable[[Callable[[], bool], str], None]
DROP_IN = "/etc/ssh/sshd_config.d/00-backstay.conf"


def effective(host: Host, keyword: str) -> str:
    lines = host.run("sshd -T").stdout.splitlines()
    return next(line.partition(" ")[2] for line in lines if line.startswith(f"{keyword} "))


def test_sshd_offers_keys_alone(lab_directory: Path) -> None:
    options = ["-o", "ControlPath=none", "-o", "PubkeyAuthentication=no", "-o", "BatchMode=yes"]
    done = subprocess.run(
        ["ssh", "-F", f"{lab_directory}/ssh_config", *options, "molecule-house", "true"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert "(publickey)" in done.stderr, done.stderr


def test_what_a_cloud_says_otherwise_does_not_count(host: Host, module: Module) -> None:
    host.run("echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/50-cloud-init.conf")
    assert effective(host, "passwordauthentication") == "no"
    host.run("rm /etc/ssh/sshd_config.d/50-cloud-init.conf")


def test_a_change_that_nobody_confirms_undoes_itself(host: Host, module: Module, becomes: Becomes) -> None:
    before = host.file(DROP_IN).content_string
    done = module("sshd", forwarding=True, seconds=20)
    assert done.returncode == 0, done.stdout
    assert effective(host, "allowtcpforwarding") == "yes", "the change holds"
    refused = module("sshd", state="confirmed")
    assert "before the change" in refused.stdout, "the connection that made it proves nothing"
    becomes(lambda: host.file(DROP_IN).content_string == before, "the file is as it was")
    assert effective(host, "allowtcpforwarding") == "no"
    assert host.service("ssh.service").is_running


def test_what_somebody_wrote_into_it_is_kept(host: Host, module: Module, becomes: Becomes) -> None:
    host.run(f"echo '# by hand' >> {DROP_IN}")
    done = module("sshd", state="present")
    assert done.returncode == 0, done.stdout
    kept = host.run("grep -rl '# by hand' /var/lib/backstay/replaced").stdout.split()
    assert kept
    assert kept[-1] in done.stdout
    assert not host.file(DROP_IN).contains("by hand")
    assert module("sshd", state="confirmed", anew=True).returncode == 0


def answers(host: Host) -> bool:
    try:
        return bool(host.run("true").succeeded)
    except RuntimeError:  # testinfra's word for a session that did not begin
        return False


def test_a_reboot_in_between_undoes_it_too(host: Host, module: Module, becomes: Becomes) -> None:
    assert module("sshd", forwarding=True, seconds=300).returncode == 0
    assert host.service("backstay-undo-sshd.service").is_enabled, "it runs at boot, before sshd"
    host.run("systemctl start backstay-undo-sshd.service")
    becomes(lambda: answers(host), "sshd, which reads its configuration again, listens again")
    assert effective(host, "allowtcpforwarding") == "no"
    assert not host.file("/etc/systemd/system/multi-user.target.wants/backstay-undo-sshd.service").exists


def test_without_a_key_it_is_refused(host: Host, module: Module, becomes: Becomes) -> None:
    assert module("sshd", state="present").returncode == 0, "its connection stays open for the next one"
    # For half a minute nobody has a key; the host gives it back by itself, because nobody could come in to do that.
    away = "mv /root/.ssh/authorized_keys /root/.ssh/kept; sleep 30; mv /root/.ssh/kept /root/.ssh/authorized_keys"
    host.run(f"systemd-run --quiet --collect --unit=away sh -c '{away}'")
    refused = module("sshd", forwarding=True, admins=["nobody"])
    becomes(lambda: answers(host), "the key is back")
    assert refused.returncode != 0
    assert "has no key in authorized_keys" in refused.stdout
    assert effective(host, "allowtcpforwarding") == "no"


def test_security_updates_install_themselves_and_nothing_else_does(host: Host) -> None:
    dump = host.run("apt-config dump").stdout
    assert 'APT::Periodic::Unattended-Upgrade "1";' in dump
    origins = [line for line in dump.splitlines() if line.startswith("Unattended-Upgrade::Origins-Pattern::")]
    assert len(origins) == 1, origins
    assert "label=Debian-Security" in origins[0]
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in dump
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert host.service(timer).is_enabled
    tried = host.run("unattended-upgrade --dry-run --debug 2>&1")
    assert tried.rc == 0, tried.stdout
    assert "Allowed origins are: origin=Debian,codename=" in tried.stdout


def test_the_kernels_switches_are_declared_and_known(host: Host) -> None:
    read = host.run("systemd-analyze cat-config sysctl.d").stdout
    assert "net.ipv4.conf.all.accept_redirects = 0" in read
    declared = [
        line.split(" = ")[0].lstrip("-") for line in read.partition("90-backstay.conf")[2].splitlines() if " = " in line
    ]
    known = {key for key in declared if host.file("/proc/sys/" + key.replace(".", "/")).exists}
    assert len(known) > 15, sorted(set(declared) - known)


def test_there_is_no_compiler(host: Host) -> None:
    assert host.run("command -v cc gcc clang").rc != 0
