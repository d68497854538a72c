"""What of a release is open to others: asked seldom, remembered without a secret, and never called good by silence."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application, _exposure
from ansible_collections.backstay.ops.plugins.module_utils._engine import Engine
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError
from ansible_collections.backstay.ops.plugins.module_utils._house import House
from ansible_collections.backstay.ops.plugins.module_utils._ledger import Ledger
from ansible_collections.backstay.ops.plugins.module_utils._look import Looker
from ansible_collections.backstay.ops.plugins.module_utils._run import Completed
from ansible_collections.backstay.ops.plugins.module_utils._runtime import Accounts, MigrationState
from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage, canonical

NOW = dt.datetime(2026, 11, 21, 7, 5, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
LIVE, UNIT = "0002-1.1.0", "portal-0002-1.1.0-web.service"

# How it ends what it prints of a release's unit (blanks left out), in a locale with such letters and in one without.
DEBIAN_12 = """\
✓ RestrictSUIDSGID=            SUID/SGID file creation by service is restricted
✗ UMask=                       Files created by service are group-readable by default    0.1

→ Overall exposure level for portal-0002-1.1.0-web.service: 1.4 OK 🙂
"""
DEBIAN_13 = """\
+ RestrictSUIDSGID=            SUID/SGID file creation by service is restricted
- UMask=                       Files created by service are group-readable by default    0.1

-> Overall exposure level for portal-0002-1.1.0-web.service: 1.2 OK :-)
"""
PLAIN = """\
- UMask=                       Files created by service are world-readable by default    0.1

-> Overall exposure level for plain.service: 9.6 UNSAFE :-{
"""


@pytest.mark.parametrize(
    ("printed", "score"),
    [(DEBIAN_12, 1.4), (DEBIAN_13, 1.2), (PLAIN, 9.6), ("Unit portal.service not found, cannot analyze.\n", None)],
    ids=["systemd 252", "systemd 257", "an open unit", "no such unit"],
)
def test_the_score_is_what_systemd_says_at_the_end(printed: str, score: float | None) -> None:
    assert _exposure.score_of(printed) == score


# --- warnings

HSTS, COOKIE = ("security.W004", "You have not set a value for HSTS"), ("security.W012", "SESSION_COOKIE_SECURE")


def told_of(*warnings: tuple[str, str]) -> dict[str, Any]:
    return _exposure.recorded(warnings, None)


def test_a_warning_is_new_where_the_release_before_had_none_like_it() -> None:
    found = _exposure.recorded([HSTS, COOKIE], told_of((HSTS[0], "said in other words")))
    assert {each["id"]: each["new"] for each in found["warnings"]} == {HSTS[0]: False, COOKIE[0]: True}


@pytest.mark.parametrize("before", [None, {}, {"warnings": []}], ids=["the first", "of an older backstay", "none"])
def test_whatever_a_release_warns_about_is_new_where_nothing_is_known_of_one_before(before: Any) -> None:
    assert [each["new"] for each in _exposure.recorded([HSTS], before)["warnings"]] == [True]


def test_of_checks_that_did_not_answer_nothing_is_written_down() -> None:
    assert _exposure.recorded(None, told_of(HSTS)) == {}
    assert _exposure.recorded([], None) == {"warnings": []}


# --- secrets


@pytest.mark.parametrize(
    "value",
    [
        "changeme",
        " ChangeMe\n",
        "postgres",
        "portal",
        "django-insecure-1#kf2",
        "postgres://portal:portal@db/portal",
        "redis://:redis@127.0.0.1/0",
        "postgres://p:change%2Dme@db/x",
    ],
)
def test_a_value_that_everybody_knows_is_found_by_its_key_alone(value: str) -> None:
    assert _exposure.default_secrets("portal", {"A": value, "B": "Zk3-91hd"}, ["B", "A"]) == ["A"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("A", ""),
        ("A", "secretary"),
        ("A", "postgres://portal@db/portal"),
        ("A", "postgres://portal:Zk3-91hd@db/test"),
        ("A", "https://[nowhere"),
        ("DB_USER", "postgres"),
        ("DATABASE_NAME", "test"),
        ("NOT_SECRET", "changeme"),
    ],
)
def test_what_is_no_default_password_is_not_called_one(key: str, value: str) -> None:
    assert _exposure.default_secrets("portal", {key: value}, ["A", "DB_USER", "DATABASE_NAME"]) == []


# --- accounts

ADA, EVE, NEW = "aaaa", "eeee", "nnnn"


def test_what_was_tried_is_remembered_as_long_as_the_password_stays() -> None:
    first = _exposure.folded(Accounts((ADA, EVE), {ADA: "ada", EVE: ""}), {}, "t1")
    assert first["accounts"] == {ADA: "ada", EVE: ""}
    second = _exposure.folded(Accounts((NEW, EVE), {}), first, "t2")
    assert second["accounts"] == {NEW: None, EVE: ""}, "ada's is another, and nobody had the time to try it"
    assert _exposure.folded(Accounts((NEW, EVE), {NEW: ""}), second, "t3")["accounts"] == {NEW: "", EVE: ""}


def stamp(hours: float) -> str:
    return (NOW - hours * HOUR).isoformat()


@pytest.mark.parametrize(
    ("kept", "is_due"),
    [
        ({}, True),
        ({"asked_at": stamp(23), "accounts": {ADA: "", EVE: None}}, False),
        ({"asked_at": stamp(24), "accounts": {ADA: ""}}, True),
        ({"asked_at": stamp(0.5), "accounts": {ADA: "ada"}}, False),
        ({"asked_at": stamp(1), "accounts": {ADA: "ada"}}, True),
        ({"asked_at": stamp(1), "problem": "it does not start"}, True),
        ({"asked_at": stamp(-2), "accounts": {}}, True),
    ],
    ids=["never asked", "today", "yesterday", "just found", "is it mended", "did it fail", "the clock was set back"],
)
def test_accounts_are_asked_for_once_a_day_and_each_hour_while_something_is_to_be_mended(
    kept: dict[str, Any], is_due: bool
) -> None:
    assert _exposure.due(kept, NOW) is is_due


def kept(*, score: float | None = 1.4, **tried: Any) -> dict[str, Any]:
    return {"unit": {"name": UNIT, "score": score, "problem": "systemd-analyze was not found"}, "tried": tried}


def test_a_look_is_told_names_and_no_digest() -> None:
    found = _exposure.told(kept(at=stamp(5), accounts={ADA: "ada", EVE: ""}), UNIT, NOW)
    assert found["unit"] == {"name": UNIT, "score": 1.4}
    assert found["accounts"] == {"at": stamp(5), "of": 2, "tried": 2, "weak": ["ada"]}
    assert found["unknown"] == {}
    assert ADA not in json.dumps(found)


@pytest.mark.parametrize(
    ("facts", "what", "why"),
    [
        ({}, "unit", "systemd was not asked yet"),
        (kept(score=None), "unit", "systemd-analyze was not found"),
        ({}, "accounts", "the application was not asked yet"),
        (kept(problem="it does not start"), "accounts", "it does not start"),
        (kept(at=stamp(73), accounts={ADA: ""}, problem="it hangs"), "accounts", "it hangs"),
        (kept(at=stamp(1), accounts={ADA: "", EVE: None}), "accounts", "1 of 2 were tried"),
        (kept(at=stamp(1), accounts={ADA: ""}, more=True), "accounts", "1 of 1 and more were tried"),
    ],
)
def test_what_is_not_known_is_said_to_be(facts: dict[str, Any], what: str, why: str) -> None:
    assert _exposure.told(facts, UNIT, NOW)["unknown"][what] == why


def test_the_score_of_another_unit_says_nothing() -> None:
    assert _exposure.told(kept(), "portal-0003-1.2.0-web.service", NOW)["unit"] is None


def test_a_name_cannot_write_over_what_a_terminal_shows() -> None:
    found = _exposure.told(kept(at=stamp(1), accounts={ADA: "ada\x1b[2J\nroot"}), UNIT, NOW)
    assert found["accounts"]["weak"] == ["ada\\x1b[2J\\nroot"]


# --- a host in a directory

SECRET = "postgres://portal:Zk3-91hd-and-long@db/portal"
DECLARED: dict[str, Any] = {
    "format": 1,
    "name": "portal",
    "domain": "portal.example.org",
    "source": {"repository": "https://git.example.org/portal.git"},
    "runtime": {"settings": "portal.settings", "wsgi": "portal.wsgi:application"},
    "processes": {"web": {}},
    "databases": [{"name": "default", "engine": "sqlite", "path": "db/portal.sqlite3"}],
    "environment": {"secret": ["SECRET_KEY", "DATABASE_URL"]},
}


class Host:
    """A systemd that judges units, runs the agent, and counts; the rest says nothing."""

    def __init__(self, printed: str = DEBIAN_12, **accounts: str) -> None:
        self.printed = printed
        self.accounts = accounts  # digest: name where its password is a default one
        self.failure = ""
        self.judged: list[str] = []
        self.asked: list[list[str]] = []

    def __call__(self, arguments: Any, **_: object) -> Completed:
        words = list(arguments)
        if words[0] == "systemd-analyze":
            self.judged.append(words[2])
            if not self.printed:
                raise BackstayError("The program 'systemd-analyze' was not found: install it, or correct its path.")
            return Completed(tuple(words), 0, self.printed, "")
        if words[0] == "systemd-run":
            self.asked.append(words)
            return Completed(tuple(words), 2 if self.failure else 0, self._answer(words), self.failure)
        said = f"{UNIT} loaded active running" if "list-units" in words else "active"
        return Completed(tuple(words), 0, said, "")

    def _answer(self, words: list[str]) -> str:
        if self.failure:
            return ""
        known = json.loads(words[-1])["tried"]
        told: list[dict[str, Any]] = [{"event": "accounts", "present": list(self.accounts), "more": False}]
        fresh = {digest: name for digest, name in self.accounts.items() if digest not in known}
        told += [{"event": "tried", "account": digest, "weak": name} for digest, name in fresh.items()]
        return "".join(json.dumps(each) + "\n" for each in told)


def application(house: House, name: str, **values: str) -> None:
    """An application of which two releases were made, and the second is live with these secrets."""
    layout = house.layout(name)
    content = canonical(_application.to_dict(_application.from_dict(DECLARED | {"name": name}, file="portal.yml")))
    layout.state.mkdir(parents=True)
    layout.home.mkdir(parents=True)
    ledger = Ledger(layout.ledger, Storage(), lambda: "2026-11-01T08:00:00.000Z")
    for release in ("0001-1.0.0", LIVE):
        layout.release_configuration(release).mkdir(parents=True)
        (layout.release_configuration(release) / "application.json").write_bytes(content)
        ledger.append("live", release)
    layout.application_file.write_bytes(content)
    secrets = {"SECRET_KEY": "k" * 60, "DATABASE_URL": SECRET, **values}
    layout.environment_file(LIVE).write_text("".join(f'{key}="{value}"\n' for key, value in secrets.items()))
    layout.secrets_file.write_bytes(canonical({"values": secrets}))
    layout.active.symlink_to(layout.socket(LIVE))


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(tmp_path)
    application(house, "portal")
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/tcp").write_text(
        "  sl  local_address rem_address   st\n   0: 00000000:0016 00000000:0000 0A 0 0 0 0 0 1\n"
    )
    return house


def looker(house: House, host: Host, hours: float = 0) -> Looker:
    return Looker(house, runner=host, now=NOW + hours * HOUR, sleep=lambda _seconds: None)


def seen(house: House, host: Host, hours: float = 0) -> dict[str, Any]:
    """What a person at a shell is told of the exposure."""
    mine = looker(house, host, hours)
    return dict(mine.facts(mine.engine("portal"))["look"]["exposure"])


def test_systemd_judges_a_unit_once_and_a_person_who_looks_asks_nobody(house: House) -> None:
    host = Host()
    assert seen(house, host)["unit"] is None
    assert (host.judged, host.asked) == ([], []), "the timer alone asks"
    for hours in (0, 1, 23):
        looker(house, host, hours).write_page()
    assert host.judged == [UNIT]
    assert seen(house, host, 23)["unit"] == {"name": UNIT, "score": 1.4}
    looker(house, host, 24).write_page()
    assert host.judged == [UNIT] * 2, "a drop-in may have opened it"


def test_another_live_release_is_judged_by_itself(house: House) -> None:
    host, layout = Host(), house.layout("portal")
    looker(house, host).write_page()
    layout.active.unlink()
    layout.active.symlink_to(layout.socket("0001-1.0.0"))
    looker(house, host, 0.1).write_page()
    assert host.judged == [UNIT, "portal-0001-1.0.0-web.service"]


def test_without_systemd_analyze_the_score_is_unknown_and_asked_for_again(house: House) -> None:
    host = Host(printed="")
    for hours in (0, 1):
        looker(house, host, hours).write_page()
    assert len(host.judged) == 2
    found = seen(house, host, 1)
    assert found["unit"] is None
    assert "was not found" in found["unknown"]["unit"]


def test_the_application_is_asked_for_its_accounts_as_its_own_user_and_after_everybody_else(house: House) -> None:
    host = Host(aaaa="ada", eeee="")
    for hours in (0, 0.5):
        looker(house, host, hours).write_page()
    (asked,) = host.asked
    assert {"--property=User=portal", "--property=Nice=19", "--property=RuntimeMaxSec=60", "--collect"} <= set(asked)
    assert "--unit=backstay-accounts-portal.service" in asked
    found = seen(house, host, 0.5)
    assert found["accounts"] == {"at": NOW.isoformat(), "of": 2, "tried": 2, "weak": ["ada"]}
    host.accounts = {"nnnn": "", "eeee": ""}
    looker(house, host, 1).write_page()
    assert json.loads(host.asked[1][-1])["tried"] == ["aaaa", "eeee"]
    assert seen(house, host, 1)["accounts"]["weak"] == []
    for hours in (2, 24.5):
        looker(house, host, hours).write_page()
    assert len(host.asked) == 2, "all is well: tomorrow"


def test_of_several_applications_one_is_asked_at_a_time(house: House) -> None:
    for name in ("calendar", "shop"):
        application(house, name)
    host = Host()
    for minutes in (0, 5, 10, 15):
        looker(house, host, minutes / 60).write_page()
    units = [word for words in host.asked for word in words if word.startswith("--unit=")]
    assert units == [f"--unit=backstay-accounts-{name}.service" for name in ("calendar", "portal", "shop")]


def test_nobody_is_asked_during_a_transaction(house: House) -> None:
    host, journal = Host(), house.layout("portal").journal
    journal.write_text("")
    looker(house, host).write_page()
    assert host.asked == []
    journal.unlink()
    looker(house, host, 0.1).write_page()
    assert len(host.asked) == 1


def test_an_application_that_cannot_be_asked_is_unknown_and_what_was_found_before_stays(house: House) -> None:
    host = Host(aaaa="ada")
    looker(house, host).write_page()
    host.failure = f"the accounts cannot be read: OperationalError: {SECRET} is away\n"
    looker(house, host, 2).write_page()
    found = seen(house, host, 2)
    assert found["accounts"]["weak"] == ["ada"]
    looker(house, host, 80).write_page()
    found = seen(house, host, 80)
    assert found["accounts"] is None
    assert found["unknown"]["accounts"] == "the accounts cannot be read: OperationalError: [secret] is away"


def test_what_was_kept_and_is_damaged_is_asked_anew(house: House) -> None:
    for content in ("{", '{"format": 1, "applications": {"portal": []}}', '{"format": 9}'):
        host = Host()
        house.state.mkdir(parents=True, exist_ok=True)
        (house.state / "exposure.json").write_text(content)
        looker(house, host).write_page()
        assert (host.judged, len(host.asked)) == ([UNIT], 1), content


def test_an_application_of_which_nothing_is_live_has_nothing_to_ask(house: House) -> None:
    house.layout("portal").active.unlink()
    host = Host()
    looker(house, host).write_page()
    assert (host.judged, host.asked) == ([], [])
    found = looker(house, host).rows()[0]
    cell = next(cell for cell in found.cells if cell.name == "exposure")
    assert (cell.state, cell.value) == ("green", "22 open")


def test_no_secret_and_no_digest_gets_into_what_is_told_or_kept_for_others(house: House) -> None:
    layout = house.layout("portal")
    values = {"SECRET_KEY": "django-insecure-Zz9", "DATABASE_URL": "postgres://portal:changeme@db/portal"}
    layout.environment_file(LIVE).write_text("".join(f'{key}="{value}"\n' for key, value in values.items()))
    host = Host(aaaa1111="ada", eeee2222="")
    mine = looker(house, host)
    mine.write_page()
    engine = mine.engine("portal")
    facts = mine.facts(engine)
    row = mine.row(engine, facts)
    assert facts["look"]["exposure"]["weak_secrets"] == ["DATABASE_URL", "SECRET_KEY"]
    told = [json.dumps(facts), json.dumps(row.to_dict())]
    told += [(house.state / name).read_text() for name in ("status.html", "status.json", "page.json")]
    for text in told:
        for secret in (*values.values(), "insecure", "aaaa1111", "eeee2222", "changeme@"):
            assert secret not in text, secret
    kept = house.state / "exposure.json"
    assert "aaaa1111" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    cell = next(cell for cell in row.cells if cell.name == "exposure")
    assert (cell.state, cell.command) == ("red", "backstay run -a portal python manage.py changepassword ada")


# --- a release is judged


def judged(engine: Engine, monkeypatch: pytest.MonkeyPatch, *warnings: tuple[str, str], known: bool = True) -> None:
    state = MigrationState(warnings=warnings if known else None)
    monkeypatch.setattr(engine, "migrations", lambda *_arguments, **_more: state)
    transaction: Any = SimpleNamespace(candidate=LIVE, previous="0001-1.0.0", operation="release", version="1.1.0")
    engine.do_judge(transaction)


def test_what_a_release_warns_about_is_written_down_without_secrets_and_told(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(house.layout("portal"), runner=Host())
    engine.ledger.append("schema", "0001-1.0.0", **told_of(HSTS))
    judged(engine, monkeypatch, HSTS, ("ours.W001", f"{SECRET} is in plain sight"))
    found = seen(house, Host())
    assert found["warnings"] == [
        {"id": HSTS[0], "said": HSTS[1], "new": False},
        {"id": "ours.W001", "said": "[secret] is in plain sight", "new": True},
    ]


def test_a_release_whose_checks_do_not_answer_is_judged_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(house.layout("portal"), runner=Host())
    judged(engine, monkeypatch, known=False)
    assert "warnings" not in engine.ledger.read()[-1].data
    found = seen(house, Host())
    assert found["warnings"] is None
    assert found["unknown"]["warnings"] == "they were not written down with the release"
