"""What of a release is open to others beside its ports: how exposed systemd says its web unit is, what the checks for a
deployment newly warn about, and passwords that everybody knows.

What is dear is asked by the page's timer and kept: the unit once, and once a day, for its file does not change while it
is live; the accounts once a day, of the application itself, one application at a time and after everybody else. Each
password is tried once: what is kept of it is a digest of its hash. The warnings were written down with the release.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ._environment import redact
from ._errors import BackstayError
from ._storage import Storage, canonical

if TYPE_CHECKING:
    from ._host import Host
    from ._runtime import Accounts

FORMAT = 1
AGAIN_SECONDS = 86400
SOON_SECONDS = 3600  # where one has a default password, or could not be asked
KNOWN_SECONDS = 3 * 86400  # what was tried longer ago says nothing about who is there now
TRYING_SECONDS = 30.0  # of a processor, in a day; then the rest waits for the next
_LONGEST_SECONDS = 60.0
_POLITE = ("Nice=19", "CPUWeight=10", "IOSchedulingClass=idle", "OOMScoreAdjust=800")

_SCORE = re.compile(r"exposure level for (?P<unit>\S+): (?P<score>\d+(?:\.\d+)?)")
# What installers, examples and tired people write.
DEFAULTS = frozenset(
    ("admin", "changeme", "change-me", "default", "example", "guest", "password", "postgres", "redis", "root")
) | {"secret", "test", "123456", "12345678"}
_INSECURE = "django-insecure-"  # how `startproject` marks a key that is in everybody's repository
# A user or a database may be called as it likes.
_NAMES = re.compile(r"(^|_)(USER|USERNAME|LOGIN|NAME|DATABASE|DB|HOST|EMAIL|REGION|BUCKET|SCHEMA|ENV|ENVIRONMENT)$")


# --- pure parts


def score_of(printed: str) -> float | None:
    """The overall exposure from what `systemd-analyze security` prints; None where it says none. Pure."""
    found = _SCORE.search(printed)
    return float(found["score"]) if found else None


def recorded(warnings: Iterable[tuple[str, str]] | None, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the ledger keeps of a release's warnings, held against what it keeps of the release before: {"warnings":
    [{"id", "said", "new"}]}, and nothing where it is not known. Where it is not known of the one before, all are new.
    Pure."""
    if warnings is None:
        return {}
    known = {str(each["id"]) for each in (before or {}).get("warnings") or ()}
    return {"warnings": [{"id": name, "said": said, "new": name not in known} for name, said in warnings]}


def default_secrets(application: str, values: Mapping[str, str], secret: Iterable[str]) -> list[str]:
    """The secret keys whose value everybody knows, or that are in a URL with such a password; names alone. Pure."""
    return sorted(key for key in secret if not _NAMES.search(key) and _is_default(values.get(key, ""), application))


def _is_default(value: str, application: str) -> bool:
    word = value.strip()
    if "://" in word:
        try:
            parts = urlsplit(word)
        except ValueError:
            return False
        password = unquote(parts.password or "")
        return bool(password) and (password == unquote(parts.username or "") or _is_default(password, application))
    return word.startswith(_INSECURE) or word.lower() in DEFAULTS or word == application


def folded(answer: Accounts, before: Mapping[str, Any], stamp: str) -> dict[str, Any]:
    """What to keep of the accounts: of each that is there the digest of its password, and its name where that is a
    default one; None of a password that was not tried yet. Pure."""
    known = {**(before.get("accounts") or {}), **answer.tried}
    accounts = {each: known.get(each) for each in answer.present}
    return {"asked_at": stamp, "at": stamp, "accounts": accounts, "more": answer.more, "problem": ""}


def due(kept: Mapping[str, Any], now: dt.datetime) -> bool:
    """Whether the accounts are to be asked for: once a day, and each hour while there is something to mend. Pure."""
    soon = bool(kept.get("problem")) or any((kept.get("accounts") or {}).values())
    return _older(kept.get("asked_at"), now, SOON_SECONDS if soon else AGAIN_SECONDS)


def told(kept: Mapping[str, Any], unit: str, now: dt.datetime) -> dict[str, Any]:
    """What a look is told of what was kept: {"unit": {"name", "score"}, "accounts": {"at", "of", "tried", "weak"},
    "unknown": {...}}; None for what is not known, and why in `unknown`. No digest is among it. Pure."""
    found: dict[str, Any] = {"unit": None, "accounts": None, "unknown": {}}
    judged = kept.get("unit") or {}
    if judged.get("name") == unit and judged.get("score") is not None:
        found["unit"] = {"name": unit, "score": float(judged["score"])}
    else:
        asked = judged.get("name") == unit
        found["unknown"]["unit"] = str(judged.get("problem")) if asked else "systemd was not asked yet"
    tried = kept.get("tried") or {}
    accounts = tried.get("accounts")
    if accounts is None or _older(tried.get("at"), now, KNOWN_SECONDS):
        found["unknown"]["accounts"] = str(tried.get("problem") or "the application was not asked yet")
    else:
        weak = sorted(str(name).encode("unicode_escape").decode()[:80] for name in accounts.values() if name)
        known = sum(1 for name in accounts.values() if name is not None)
        found["accounts"] = {"at": tried["at"], "of": len(accounts), "tried": known, "weak": weak}
        if known < len(accounts) or tried.get("more"):
            of = f"{len(accounts)}{' and more' if tried.get('more') else ''}"
            found["unknown"]["accounts"] = f"{known} of {of} were tried"
    return found


def _older(at: Any, now: dt.datetime, seconds: float) -> bool:
    """Whether a stamp is that old, to come, or none."""
    try:
        return not 0 <= (now - dt.datetime.fromisoformat(at)).total_seconds() < seconds
    except (TypeError, ValueError):
        return True


# --- asking


def read(path: Path, storage: Storage) -> dict[str, Any]:
    """What was kept, by application; nothing where what is there is no such thing."""
    try:
        value = json.loads(storage.read(path) or b"")
        found = value["applications"].items() if value["format"] == FORMAT else ()
        return {name: {part: dict(facts) for part, facts in each.items()} for name, each in found}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def refresh(path: Path, storage: Storage, engines: Sequence[Host], now: dt.datetime) -> None:
    """Ask what was asked long ago, and keep it: the accounts of one application, whose turn it is."""
    before = read(path, storage)
    kept: dict[str, Any] = {engine.layout.name: dict(before.get(engine.layout.name) or {}) for engine in engines}
    waiting = []
    for engine in engines:
        mine = kept[engine.layout.name]
        release = _live(engine)
        if release is None:
            continue
        mine["unit"] = _judged(engine, engine.web_unit(release), mine.get("unit") or {}, now)
        if due(mine.get("tried") or {}, now) and not engine.layout.journal.exists():
            waiting.append((str((mine.get("tried") or {}).get("asked_at") or ""), engine.layout.name, engine, release))
    for _asked, name, engine, release in sorted(waiting, key=lambda each: each[:2])[:1]:
        kept[name]["tried"] = _tried(engine, release, kept[name].get("tried") or {}, now)
    if kept != before:
        storage.write(path, canonical({"format": FORMAT, "applications": kept}), mode=0o600)


def _live(engine: Host) -> str | None:
    try:
        return engine.live()
    except OSError:  # no link: the row of the application says so
        return None


def _judged(engine: Host, unit: str, before: Mapping[str, Any], now: dt.datetime) -> dict[str, Any]:
    """How exposed systemd says a unit is."""
    known = before.get("name") == unit and before.get("score") is not None
    if known and not _older(before.get("at"), now, AGAIN_SECONDS):
        return dict(before)
    found: dict[str, Any] = {"name": unit, "at": now.isoformat(timespec="seconds"), "score": None}
    try:
        done = engine.runner(["systemd-analyze", "security", unit, "--no-pager"], timeout_seconds=10.0, check=False)
    except BackstayError as failed:
        return {**found, "problem": failed.message}
    score = score_of(done.stdout)
    reason = (done.last_lines(1) or ("nothing",))[0][:200]
    return {**found, "score": score, "problem": "" if score is not None else f"systemd-analyze said: {reason}"}


def _tried(engine: Host, release: str, before: Mapping[str, Any], now: dt.datetime) -> dict[str, Any]:
    """Ask the live release, in its own environment and confinement, which accounts have a default password."""
    from ._runtime import runtime_of
    from ._units import one_off

    stamp = now.isoformat(timespec="seconds")
    known = [digest for digest, name in (before.get("accounts") or {}).items() if name is not None]
    try:
        application = engine.application(release)
        runtime = runtime_of(application)
        done = engine.runner(
            [
                "systemd-run",
                "--quiet",
                "--wait",
                "--pipe",
                "--collect",
                # No unit of a release is called like this: settling leaves it alone, and `status` does not count it.
                f"--unit=backstay-accounts-{engine.layout.name}.service",
                *(f"--property={each}" for each in _POLITE),
                *one_off(application, release, seconds=_LONGEST_SECONDS),
                *runtime.accounts_command(engine.layout.release(release), tried=known, seconds=TRYING_SECONDS),
            ],
            timeout_seconds=_LONGEST_SECONDS + 15,
            check=False,
        )
        answer = runtime.parse_accounts(done.stdout)
        if answer is not None:
            return folded(answer, before, stamp)
        lines = [redact(line, engine.secrets().values()) for line in done.last_lines(1)]
        problem = lines[-1].rstrip(".") if lines else "the application did not say why not"
    except (BackstayError, OSError, ValueError) as failed:
        said = failed.message if isinstance(failed, BackstayError) else f"{type(failed).__name__}: {failed}"
        problem = said.rstrip(".")
    return {**before, "asked_at": stamp, "problem": problem[:200]}
