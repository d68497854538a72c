"""The agent, in an interpreter with real Django: what it tells of a release's warnings and of default passwords."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.django_project import AGENT, Project

DJANGO = ["django.contrib.contenttypes", "django.contrib.auth"]
CHECKS = """
from django.core import checks

@checks.register(deploy=True)
def ours(app_configs, **kwargs):
    {body}
"""
FAST = 'PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]\n'
PEOPLE = """
import json, sys
sys.path.insert(0, ".")
import django
django.setup()
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import PBKDF2PasswordHasher
made = {}
for name, password, more in json.loads(sys.argv[1]):
    encoded = PBKDF2PasswordHasher().encode(password, "salt" + name, 10) if password else "!unusable"
    person = get_user_model()(username=name, password=encoded, **more)
    person.save()
    made[name] = person.password
print(json.dumps(made))
"""
CHIEF, STAFF = {"is_superuser": True, "is_staff": True}, {"is_staff": True}


def add(project: Project, text: str) -> None:
    settings = project.home / "settings.py"
    settings.write_text(settings.read_text() + text)


@pytest.fixture
def checked(project: Project) -> Project:
    project.migration("shop", "0001_initial", "")
    return project


def check(project: Project, body: str) -> None:
    (project.home / "shop" / "apps.py").write_text(
        "from django.apps import AppConfig\n\n\nclass Shop(AppConfig):\n    name = 'shop'\n\n"
        "    def ready(self):\n        from shop import checks  # registers\n"
    )
    (project.home / "shop" / "checks.py").write_text(CHECKS.format(body=body))


# what `check --deploy` warns about


def test_a_description_tells_what_the_checks_for_a_deployment_warn_about(checked: Project) -> None:
    check(
        checked, 'return [checks.Info("loud enough? no", id="shop.I001"), checks.Error("no\\n till", id="shop.E001")]'
    )
    add(checked, 'SILENCED_SYSTEM_CHECKS = ["security.W020"]\n')
    answer = checked.agent("describe")
    assert [event["event"] for event in answer.events] == ["describe", "checks", "state"]
    told = {each["id"]: each["said"] for each in answer.only("checks")["warnings"]}
    assert told["shop.E001"] == "no till"
    assert told["security.W009"].startswith("Your SECRET_KEY has less than 50 characters, less than 5 unique")
    assert told["security.W009"].endswith(" …")
    assert {"shop.I001", "security.W020"} & set(told) == set(), "below a warning, and silenced"
    assert max(map(len, told.values())) <= 100
    assert "tests" not in " ".join(told.values()), "the key itself is not told"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('raise ValueError("a broken check")', "ValueError: a broken check"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "or died"),
        ("import time; time.sleep(600)", "did not end within 0.3 s"),
    ],
    ids=["raises", "exits", "dies", "hangs"],
)
def test_checks_that_fail_keep_no_release_from_its_description(
    checked: Project, tmp_path: Path, body: str, why: str
) -> None:
    check(checked, body)
    hasty = tmp_path / "agent.py"
    hasty.write_text(AGENT.read_text().replace("_CHECK_SECONDS = 10.0", "_CHECK_SECONDS = 0.3"))
    agent = hasty if "sleep" in body else AGENT
    code, output, error = checked.django.run([str(agent), "settings", "describe", "{}"], checked.home)
    assert code == 0, error
    events = {each["event"]: each for each in map(json.loads, output.splitlines())}
    assert events["checks"]["warnings"] is None
    assert why in events["checks"]["failed"]
    assert events["state"]["pending"] == ["shop.0001_initial"]


def test_what_checks_print_is_no_answer(checked: Project) -> None:
    check(checked, 'print(\'{"event": "state"}\'); return []')
    assert [event["event"] for event in checked.agent("describe").events] == ["describe", "checks", "state"]


# default passwords


@pytest.fixture
def staffed(project: Project) -> Project:
    project.apps += DJANGO
    project.write_settings()
    add(project, FAST)
    assert project.agent("migrate").code == 0
    return project


def people(project: Project, *persons: tuple[str, str | None, dict[str, Any]]) -> dict[str, str]:
    made: dict[str, str] = project.run(PEOPLE, json.dumps(persons))
    return made


def test_of_those_who_may_do_most_it_tells_whose_password_everybody_knows(staffed: Project) -> None:
    good = "a-good-one-of-her-own"
    made = people(
        staffed,
        ("grace", good, CHIEF),
        ("ada", "ada", STAFF),
        ("eve@example.org", "eve123", STAFF),
        ("root", "admin123", CHIEF),
        ("gone", "gone", {**CHIEF, "is_active": False}),
        ("sso", None, CHIEF),
        ("visitor", "visitor", {}),
    )
    before = staffed.database.read_bytes()
    answer = staffed.agent("accounts", seconds=60)
    assert answer.code == 0, answer.stderr
    told = answer.only("accounts")
    assert (len(told["present"]), told["more"]) == (4, False), "who cannot log in, or do much, is not asked"
    tried = answer.all("tried")
    assert [each["account"] for each in tried] == told["present"]
    assert [each["weak"] for each in tried] == ["", "root", "ada", "eve@example.org"], "superusers first"
    assert staffed.database.read_bytes() == before, "nothing is written, and no old hash made new"
    shown = json.dumps(answer.events) + answer.stderr
    for name, encoded in made.items():
        assert encoded not in shown, name
        assert encoded.rpartition("$")[2] not in shown, name
    for password in (good, "admin123", "eve123", "visitor"):
        assert password not in shown


def test_a_password_that_was_tried_is_not_tried_again_until_it_changes(staffed: Project) -> None:
    people(staffed, ("ada", "ada", CHIEF), ("grace", "a-good-one", CHIEF))
    present = staffed.agent("accounts", seconds=60).only("accounts")["present"]
    again = staffed.agent("accounts", seconds=60, tried=present)
    assert again.only("accounts")["present"] == present
    assert again.all("tried") == []
    script = PEOPLE.partition("made = {}")[0] + (
        "get_user_model().objects.filter(username='ada').update(password=PBKDF2PasswordHasher().encode('x', 'y', 10))\n"
        "print('0')\n"
    )
    staffed.run(script)
    changed = staffed.agent("accounts", seconds=60, tried=present)
    (tried,) = changed.all("tried")
    assert tried["account"] not in present
    assert tried["weak"] == ""


def test_without_time_accounts_are_counted_and_not_tried(staffed: Project) -> None:
    people(staffed, ("ada", "ada", CHIEF))
    answer = staffed.agent("accounts", seconds=-60)
    assert len(answer.only("accounts")["present"]) == 1
    assert answer.all("tried") == []


def test_no_more_accounts_than_a_hundred_are_looked_at(staffed: Project) -> None:
    people(staffed, *((f"staff{number}", "a-good-one", STAFF) for number in range(101)))
    told = staffed.agent("accounts", seconds=-60).only("accounts")
    assert (len(told["present"]), told["more"]) == (100, True)


def test_a_password_that_nobody_can_read_is_not_called_good(staffed: Project) -> None:
    people(staffed, ("ada", "ada", CHIEF))
    script = PEOPLE.partition("made = {}")[0] + "get_user_model().objects.update(password='odd$hash')\nprint('0')\n"
    staffed.run(script)
    answer = staffed.agent("accounts", seconds=60)
    assert (len(answer.only("accounts")["present"]), answer.all("tried")) == (1, [])
    assert "odd$hash" not in answer.stderr


def test_an_application_without_accounts_has_none_with_a_default_password(checked: Project) -> None:
    answer = checked.agent("accounts", seconds=60)
    assert (answer.code, answer.only("accounts")["present"]) == (0, [])


def test_accounts_that_cannot_be_asked_are_told_to_be_unknown(project: Project) -> None:
    project.apps += DJANGO
    project.write_settings()
    answer = project.agent("accounts", seconds=60)
    assert (answer.code, answer.events) == (2, ())
    assert answer.reason.startswith("the accounts cannot be read: OperationalError")


MEMBERS = """
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import models


class Member(AbstractBaseUser):
    email = models.EmailField(unique=True)
    USERNAME_FIELD = "email"
"""


def test_people_of_whom_nobody_knows_what_they_may_do_are_unknown(project: Project) -> None:
    project.apps += DJANGO
    project.migration("shop", "0001_initial", "")
    (project.home / "shop" / "models.py").write_text(MEMBERS)
    add(project, 'AUTH_USER_MODEL = "shop.Member"\n')
    answer = project.agent("accounts", seconds=60)
    assert (answer.code, answer.events) == (2, ())
    assert answer.reason == "Member knows neither superusers nor staff"
