# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's half of the module artifact_build: export the source, send it, bring the payload back."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.backstay.ops.plugins.module_utils._application import Application, parse
from ansible_collections.backstay.ops.plugins.module_utils._artifact import sha256_of
from ansible_collections.backstay.ops.plugins.module_utils._attestation import (
    ATTESTATION,
    SIGNATURE,
    beside_inventories,
    is_vouched_for,
    sign,
    signers_of,
    signing_key,
)
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._releases import check_version
from ansible_collections.backstay.ops.plugins.module_utils._source import (
    Revision,
    export,
    export_directory,
    revision,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core comes without types
    """What Ansible asks for."""

    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        options = dict(self._task.args)
        given = options.get("signing_key")
        key = Path(str(given)).expanduser() if given else beside_inventories(task_vars or {}, "signing_key")
        options["signing_key"] = Path.cwd() / key
        try:
            application = parse(options["application"], file="the application's file")
            version = check_version(str(options["version"]))
            result.update(self._build(application, version, options, task_vars))
        except KeyError as missing:
            raise AnsibleActionFail(f"artifact_build needs the option {missing}: add it to the task.") from missing
        except BackstayError as error:
            raise AnsibleActionFail(error.message, result={"backstay_lines": list(error.lines)}) from error
        return result

    def _build(self, application: Application, version: str, options: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        artifacts = Path.cwd() / Path(options.get("artifacts") or "artifacts").expanduser()
        room = artifacts / application.name / version
        payload = room / f"{application.name}-{version}.tar"
        signing_key(options["signing_key"])  # before anything is built: what nobody can vouch for is of no use
        with _source(application, version, options) as found, TemporaryDirectory(prefix="backstay-build-") as temporary:
            commit = found.commit if found else ""
            listed = str(self._templar.template((task_vars or {}).get("backstay_allowed_signers") or ""))
            attested = _attested(payload, commit, signers_of(listed, task_vars or {}))
            if attested and not boolean(options.get("rebuild") or False):
                return {
                    "changed": False,
                    "payload": str(payload),
                    "sha256": attested["payload_sha256"],
                    "commit": commit,
                    "attestation": attested,
                    "backstay_lines": [f"{payload.name} was already built from {commit[:12]}, and was signed"],
                }
            if self._task.check_mode:
                what = found.what if found else f"the directory {options['source_directory']}"
                line = f"{payload.name} would be built from {what}"
                return {"changed": True, "payload": str(payload), "commit": commit, "backstay_lines": [line]}
            archive = Path(temporary) / "source.tar"
            if found:
                export(found, archive)
                source_time = found.source_time
            else:
                source_time = export_directory(Path(options["source_directory"]).expanduser().absolute(), archive)
            handed = {"commit": commit, "source_time": source_time}
            return self._on_host(archive, payload, {**options, "version": version}, handed, task_vars)

    def _on_host(
        self, archive: Path, payload: Path, options: dict[str, Any], handed: dict[str, Any], task_vars: Any
    ) -> dict[str, Any]:
        """Send the source, build, fetch what was built, as the user of the connection, and sign it here."""
        shell = self._connection._shell
        key = options.pop("signing_key")
        directory = self._make_tmp_path()
        try:
            self._transfer_file(str(archive), shell.join_path(directory, "source.tar"))
            done: dict[str, Any] = self._execute_module(
                "backstay.ops.artifact_build",
                {**options, "export": {"directory": directory, **handed}},
                task_vars=task_vars,
            )
            if done.get("failed"):
                return done
            payload.parent.mkdir(parents=True, exist_ok=True)
            partial = payload.with_name(f".{payload.name}.partial")
            self._connection.fetch_file(done["payload"], str(partial))
            actual = sha256_of(partial)
            if actual != done["sha256"]:
                partial.unlink()
                raise InputError(
                    f"The payload arrived damaged: its digest is {actual[:16]} and {done['sha256'][:16]} was expected; "
                    "build again."
                )
            for stale in (attestation(payload), signature(payload)):
                stale.unlink(missing_ok=True)  # whoever looks now sees no payload, not a wrong one
            partial.replace(payload)
            attestation(payload).write_text(
                json.dumps(done["attestation"], indent=1, sort_keys=True) + "\n", encoding="utf-8"
            )
            sign(attestation(payload), key, ATTESTATION)
            return {**done, "payload": str(payload)}
        finally:
            self._remove_tmp_path(directory)


def attestation(payload: Path) -> Path:
    """Where the attestation of a payload lies."""
    return payload.with_name(payload.name.removesuffix(".tar") + ".attestation.json")


def signature(payload: Path) -> Path:
    """Where the signature of that attestation lies."""
    return attestation(payload).with_name(attestation(payload).name + SIGNATURE)


def _attested(payload: Path, commit: str, allowed_signers: Path) -> dict[str, Any] | None:
    """The attestation of a payload that is already there, whole, from this commit, and signed by somebody whom hosts
    believe. Any other is nobody's: it is built again: whoever signs vouches for it."""
    try:
        content = attestation(payload).read_bytes()
        known: dict[str, Any] = json.loads(content)
        same = bool(commit) and known["commit"] == commit and known["payload_sha256"] == sha256_of(payload)
        same = same and is_vouched_for(content, signature(payload).read_bytes(), allowed_signers, ATTESTATION)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if same else None


@contextmanager
def _source(application: Application, version: str, options: dict[str, Any]) -> Iterator[Revision | None]:
    """The revision to build; None for a plain directory."""
    if options.get("source_directory"):
        if options.get("ref"):
            raise InputError("Both ref and source_directory are given: give one.")
        yield None
        return
    source = application.source
    ref, tag = options.get("ref"), source.tag.format(version=version)
    with revision(source.repository, ref=str(ref or tag), tag=not ref, path=source.path) as found:
        yield found
