"""A bucket that removes objects by itself is told of, by the run and by `status`; and a store that goes in the
middle of a run takes nothing with it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils._application import parse, to_dict
from ansible_collections.backstay.ops.plugins.module_utils._backup_host import BackupHost
from ansible_collections.backstay.ops.plugins.module_utils._backup_settings import BackupPolicy, RepositorySettings
from ansible_collections.backstay.ops.plugins.module_utils._backup_status import backup_facts, backup_lines, fold
from ansible_collections.backstay.ops.plugins.module_utils._bucket_rules import (
    Asked,
    findings,
    look,
    old_versions,
    remembered,
    unknown,
)
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed, run
from ansible_collections.backstay.ops.plugins.module_utils._s3 import Rule, versioning
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

from .host import Host, application
from .stores import PASSWORD, S3, s3_store

RULE = (
    b"<LifecycleConfiguration><Rule><ID>old</ID><Status>Enabled</Status><Filter><Prefix>portal/</Prefix></Filter>"
    b"<Expiration><Days>90</Days></Expiration></Rule></LifecycleConfiguration>"
)
KEEPING = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
AT = "2026-01-01T02:00:00.000Z"
PLACE = "s3:https://s3.example/bucket/portal"
SECRETS = {"access_key_id": "a", "secret_access_key": "s", "prune": {"access_key_id": "mighty"}}
BUCKET = {"bucket": (RepositorySettings(location=PLACE), SECRETS)}
SETTINGS = {name: settings for name, (settings, _secrets) in BUCKET.items()}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout("portal", tmp_path / "host")
    layout.state.mkdir(parents=True)
    return layout


def _rules(*rules: Rule) -> Any:
    return lambda location, secrets: rules


def _versions(kept: bool) -> Any:
    return lambda location, secrets: kept


def test_the_rules_are_remembered_and_judged_by_what_is_declared_now(layout):
    look(layout, Storage(), BUCKET, at=AT, ask=_rules(Rule("old", "portal/", 90)), ask_versions=_versions(False))
    known = remembered(layout, Storage())
    (sentence,) = findings(known, SETTINGS)
    assert "'old'" in sentence
    assert findings(known, {"bucket": RepositorySettings(location=PLACE, expire_uploads_days=90)}) == ()
    assert findings(known, {"bucket": RepositorySettings(location=f"{PLACE}-2")}) == (), "it was asked of another place"
    assert layout.bucket_rules.stat().st_mode & 0o777 == 0o600


def test_who_may_prune_is_asked_where_who_writes_may_not_ask(layout):
    def ask(location: str, secrets: Mapping[str, Any]) -> tuple[Rule, ...]:
        if secrets["access_key_id"] != "mighty":
            raise BackstayError("The store answered 403.")
        return (Rule("old", "", 1),)

    assert not look(layout, Storage(), BUCKET, at=AT, ask=ask, ask_versions=_versions(False))["bucket"].problem
    assert len(findings(remembered(layout, Storage()), SETTINGS)) == 1


def test_a_bucket_that_does_not_answer_is_not_called_free_of_rules(layout):
    def refuse(location: str, secrets: Mapping[str, Any]) -> tuple[Rule, ...]:
        raise BackstayError("The store answered 403.")

    first = look(layout, Storage(), BUCKET, at=AT, ask=refuse, ask_versions=_versions(False))
    assert findings(first, SETTINGS) == ()
    assert "403" in unknown(first)[0]
    declared = {"bucket": RepositorySettings(location=PLACE, expire_uploads_days=90)}
    assert findings(first, declared) == (), "nobody knows that it has no rule"
    look(layout, Storage(), BUCKET, at=AT, ask=_rules(Rule("old", "", 1)), ask_versions=_versions(False))
    assert (
        len(findings(look(layout, Storage(), BUCKET, at=AT, ask=refuse, ask_versions=_versions(False)), SETTINGS)) == 1
    ), "what it said before counts"


OLD_VERSIONS = Rule("versions", "", 30, old_versions=True)


@pytest.mark.parametrize(
    ("kept", "rules", "expected", "days"),
    [
        (False, (), "none", 29),
        (False, (OLD_VERSIONS,), "none", 29),  # of a bucket that keeps none it means nothing
        (True, (OLD_VERSIONS,), "for a time", 59),
        (True, (OLD_VERSIONS, replace(OLD_VERSIONS, prefix="portal/", days=7)), "for a time", 36),
        (True, (), "without end", None),
        (True, (replace(OLD_VERSIONS, prefix="portal/data/"),), "without end", None),
        (True, (replace(OLD_VERSIONS, prefix="other/"),), "without end", None),
        (True, (replace(OLD_VERSIONS, partly=True),), "without end", None),
    ],
)
def test_what_was_deleted_survives_for_as_long_as_the_bucket_keeps_versions(layout, kept, rules, expected, days):
    look(layout, Storage(), BUCKET, at=AT, ask=_rules(*rules), ask_versions=_versions(kept))
    known = remembered(layout, Storage())
    assert old_versions(known, "bucket", SETTINGS["bucket"])[0] == expected
    facts = _facts(known)
    assert (facts["old_versions"], facts["greatest_age_days"]) == (expected, days)


def _facts(known: Mapping[str, Asked]) -> dict[str, Any]:
    facts = fold((), BackupPolicy(SETTINGS), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), buckets=known)
    return dict(facts["repositories"]["bucket"])


def test_whether_versions_are_kept_is_not_claimed_where_nobody_may_ask(layout):
    def refuse(location: str, secrets: Mapping[str, Any]) -> Any:
        raise BackstayError("The store answered 403.")

    assert _facts({})["old_versions"] == "not known", "nobody asked yet"
    first = look(layout, Storage(), BUCKET, at=AT, ask=_rules(), ask_versions=refuse)
    assert _facts(first)["old_versions"] == "not known"
    (said,) = unknown(first)
    assert "keeps versions" in said
    assert "403" in said
    look(layout, Storage(), BUCKET, at=AT, ask=_rules(), ask_versions=_versions(True))
    again = look(layout, Storage(), BUCKET, at=AT, ask=_rules(), ask_versions=refuse)
    assert _facts(again)["old_versions"] == "without end", "what it said before counts"
    layout.bucket_rules.unlink()
    unruled = look(layout, Storage(), BUCKET, at=AT, ask=refuse, ask_versions=_versions(True))
    assert _facts(unruled)["old_versions"] == "not known", "nobody knows which rules end them"
    elsewhere = {"bucket": RepositorySettings(location=f"{PLACE}-2")}
    assert old_versions(again, "bucket", elsewhere["bucket"]) == ("not known", 0)
    assert old_versions(again, "bucket", RepositorySettings(location="/srv/backup")) == ("none", 0)


def test_an_answer_from_before_versions_were_asked_for_is_read(layout):
    look(layout, Storage(), BUCKET, at=AT, ask=_rules(OLD_VERSIONS), ask_versions=_versions(True))
    value = json.loads(layout.bucket_rules.read_text())
    each = value["repositories"]["bucket"]
    del each["versioned"], each["versions_problem"], each["rules"][0]["partly"]
    layout.bucket_rules.write_text(json.dumps(value))
    assert remembered(layout, Storage())["bucket"] == Asked(PLACE, AT, (OLD_VERSIONS,))


def test_what_cannot_be_read_is_as_if_nobody_had_asked(layout):
    for content in ("", "[]", '{"format": 1}', '{"format": 9, "repositories": {}}'):
        layout.bucket_rules.write_text(content)
        assert remembered(layout, Storage()) == {}


def test_an_expiry_that_would_leave_no_restore_point_whole_is_refused(tmp_path):
    bucket = {"location": PLACE, "expire_uploads_days": 90}
    with pytest.raises(InputError, match="no restore point stays whole"):
        application(tmp_path, repositories={"bucket": bucket})
    with pytest.raises(InputError, match="nothing expires by itself"):
        application(tmp_path, repositories={"disk": {**bucket, "location": "/srv/backup"}, "bucket": bucket})
    assert application(tmp_path, repositories={"disk": {"location": "/srv/backup"}, "bucket": bucket}).backup


# with a real store


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    with s3_store() as found:
        yield found


def test_a_rule_is_told_by_run_and_status_and_a_store_lost_in_the_middle_leaves_the_last_good_point(tmp_path, store):
    places = {"disk": str(tmp_path / "disk"), "bucket": store.made("portal-backups")}
    declared = {name: {"location": place, "own_disk": False} for name, place in places.items()}
    host = Host(tmp_path, {"repositories": declared}).build()
    secrets = {name: {"password": PASSWORD, **store.secrets} for name in places}
    host.layout.backup_secrets.write_text(json.dumps({"format": 1, "repositories": secrets}))

    def problems() -> list[str]:
        return list(_all_facts(host)["problems"])

    store.put("portal-backups", "lifecycle=", RULE)
    assert not versioning(places["bucket"], store.secrets)
    store.put("portal-backups", "versioning=", KEEPING)
    assert versioning(places["bucket"], store.secrets)
    first = host.run()
    assert set(first.point.repositories) == {"disk", "bucket"}
    assert ["'old'" in problem for problem in first.problems] == [True]
    assert any("'old'" in problem for problem in problems())
    assert "deleted data without end: the bucket keeps all versions" in backup_lines(_all_facts(host))[1]
    asking = BackupHost([_described(host)], root=host.layout.root)
    assert asking.has_buckets, "so role backup asks, even where it has nothing to change"
    (line,) = asking.ask_buckets(host.now())
    assert "'old'" in line

    def losing(arguments: Sequence[str], **given: Any) -> Completed:
        """When restic has begun to store there: it then tries on until its deadline."""
        if "backup" in arguments and places["bucket"] in " ".join(arguments):
            store.stop()
        return run(arguments, **given)

    assert host.application.backup
    host.application = replace(host.application, backup=replace(host.application.backup, seconds=4.0))
    host.runner = losing
    second = host.run()
    assert second.exit_code == 1
    assert set(second.point.repositories) == {"disk"}
    told = [problem for problem in problems() if "lacks the newest restore point" in problem]
    assert len(told) == 1, problems()
    assert "bucket" in told[0]
    kept = host.points()[0]
    assert (kept.run, kept.good, set(kept.repositories)) == (first.point.run, True, {"disk", "bucket"})
    assert any("'old'" in problem for problem in problems()), "what the bucket said before counts"


def _all_facts(host: Host) -> dict[str, Any]:
    facts = backup_facts(host.layout, Storage(), host.application, now=dt.datetime.fromisoformat(host.now()))
    assert facts is not None
    return facts


def _described(host: Host) -> dict[str, Any]:
    return to_dict(parse(to_dict(host.application), file="portal.yml"))
