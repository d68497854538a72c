# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What only the controller sees: that all hosts of a stage have confirmed a payload; and what only it can sign."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.backstay.ops.plugins.module_utils._application import parse
from ansible_collections.backstay.ops.plugins.module_utils._attestation import (
    PROMOTION,
    SIGNATURE,
    Proof,
    beside_inventories,
    is_vouched_for,
    promotion_name,
    sign,
    signers_of,
    signing_key,
)
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._fleet import names

LAST_STAGE = "production"
APP_SERVERS = "app_servers"


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core comes without types
    """What Ansible asks for."""

    BYPASS_HOST_LOOP = True
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        options, known = dict(self._task.args), task_vars or {}
        hosts = [str(host) for host in known.get("ansible_play_hosts_all") or []]
        try:
            application = parse(options["application"], file="the application's file")
            payload = options["payload"]
            if application.stage == LAST_STAGE:
                return {**result, "changed": False, "backstay_lines": []}
            given = options.get("signing_key")
            key = Path.cwd() / (Path(str(given)).expanduser() if given else beside_inventories(known, "signing_key"))
            if options.get("state") == "ready":
                signing_key(key)  # who lacks it learns that before anything is touched
                return {**result, "changed": False, "backstay_lines": []}
            left_out = sorted(set(meant(application.name, known)) - set(hosts))
            if left_out:
                line = (
                    f"{application.name}: {names(left_out)} had no part in it, so nothing is proven in "
                    f"{application.stage}: run it without --limit"
                )
                return {**result, "changed": False, "backstay_lines": [line]}
            releases = proven(hosts, known.get("hostvars") or {}, str(options.get("prefix", "__release_")))
            if releases is None:
                line = (
                    f"{application.name}: not every host has confirmed it, so nothing is proven in {application.stage}"
                )
                return {**result, "changed": False, "backstay_lines": [line]}
            proof = Proof(
                application.name,
                str(options["version"]),
                str(payload["sha256"]),
                application.stage,
                releases,
                datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                str(options.get("by") or ""),
            )
            file = Path(str(payload["path"]).removesuffix(".tar") + f".{promotion_name(application.stage)}")
            listed = str(self._templar.template(known.get("backstay_allowed_signers") or ""))
            changed = not stands(file, proof, signers_of(listed, known))
            if changed and not self._task.check_mode:
                write(file, proof, key)
        except KeyError as missing:
            raise AnsibleActionFail(f"promotion needs the option {missing}: add it to the task.") from missing
        except BackstayError as error:
            raise AnsibleActionFail(error.message, result={"backstay_lines": list(error.lines)}) from error
        word = "would be" if self._task.check_mode else "is"
        line = f"{application.name} {proof.version} {word} proven in {application.stage}: {file.name}"
        return {**result, "changed": changed, "statement": str(file), "backstay_lines": [line] if changed else []}


def meant(application: str, known: Mapping[str, Any]) -> list[str]:
    """The hosts of the inventory that run the application, whatever this run was limited to; none where the play's
    hosts are no plain group."""
    group = (known.get("groups") or {}).get(str(known.get("backstay_hosts") or APP_SERVERS)) or []
    hostvars = known.get("hostvars") or {}
    return [host for host in group if application in (hostvars[host].get("backstay_applications") or [])]


def proven(hosts: Sequence[str], hostvars: Mapping[str, Any], prefix: str) -> dict[str, str] | None:
    """The release of each host, once all of them have confirmed it or had it live already; else None."""
    found: dict[str, str] = {}
    for host in hosts:
        answers = [_answer(hostvars, host, f"{prefix}{phase}") for phase in ("prepared", "confirmed")]
        if any(answer is None or answer.get("failed") or answer.get("unreachable") for answer in answers):
            return None
        prepared, confirmed = answers
        release = (confirmed or {}).get("release") or (prepared or {}).get("release")
        # Nothing was prepared where this very release was live; else it counts once it is confirmed. In check mode
        # nothing is prepared either, and it says what it would change.
        live = not (prepared or {}).get("transaction") and not (prepared or {}).get("changed")
        if not release or not ((confirmed or {}).get("release") or live):
            return None
        found[host] = str(release)
    return found or None


def _answer(hostvars: Mapping[str, Any], host: str, name: str) -> Mapping[str, Any] | None:
    value = hostvars[host].get(name) if host in hostvars else None
    return value if isinstance(value, Mapping) else None


def stands(file: Path, proof: Proof, allowed_signers: Path) -> bool:
    """Whether this payload was found proven in this stage before, and somebody whom hosts believe has signed that."""
    try:
        content = file.read_bytes()
        known = json.loads(content)
        same = all(known[name] == getattr(proof, name) for name in ("kind", "application", "version", "stage"))
        same = same and known["payload_sha256"] == proof.payload_sha256
        signature = file.with_name(file.name + SIGNATURE).read_bytes()
        return bool(same) and is_vouched_for(content, signature, allowed_signers, PROMOTION)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(file: Path, proof: Proof, key: Path) -> None:
    """Write the proof and its signature; whoever looks meanwhile sees one that is not signed, never a wrong one."""
    file.with_name(file.name + SIGNATURE).unlink(missing_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(proof.to_json())
    partial.replace(file)
    sign(file, key, PROMOTION)
