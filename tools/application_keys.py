"""Write the table of the application's file into the operator's guide, from the schema in `_application.py`.

    python tools/application_keys.py           write it
    python tools/application_keys.py --check   only say whether it is current

Types, limits and defaults are asked of the schema itself: each converter is given a value that it refuses, and says
what it wants. Only what a key means is written here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_type_hints

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".ansible" / "collections"))

from ansible_collections.backstay.ops.plugins.module_utils import _application as schema
from ansible_collections.backstay.ops.plugins.module_utils._schema import At, Converter, keys_of

GUIDE = ROOT / "docs" / "operator-guide.md"
BEGIN = "<!-- keys: generated from plugins/module_utils/_application.py by `python tools/application_keys.py` -->"
END = "<!-- end of keys -->"

MEANINGS = {
    "name": "User, paths, units and site are called after it; so is the file: `<name>.yml`.",
    "domain": "The name visitors use.",
    "source.repository": "Where the controller finds the source; `./` and `../` start at this file.",
    "source.path": "The application's directory inside the repository.",
    "source.tag": "How the tag of a version is called.",
    "runtime.settings": "Django's settings module.",
    "runtime.wsgi": "What gunicorn serves.",
    "runtime.type": "What kind of application it is.",
    "runtime.requirements": "Dependencies, locked with hashes.",
    "runtime.checks_requirements": "What the checks need beyond them, with hashes; never on hosts that serve.",
    "runtime.checks": "Commands that must pass before a payload is built.",
    "runtime.changelog": "A file that must have an entry `## [<version>]`; without it none is needed.",
    "processes.web.workers": "Processes of gunicorn.",
    "processes.web.threads": "Threads of each.",
    "processes.web.timeout_seconds": "A worker that is silent for longer is replaced.",
    "processes.web.graceful_seconds": "How long requests may take to finish when it stops.",
    "processes.web.stop_seconds": "What it gets before it is killed; more than `graceful_seconds`.",
    "processes.web.memory_max_bytes": "The unit's memory limit.",
    "processes.*.command": "What the worker runs ([which program](#first-word)).",
    "processes.*.singleton": "It never runs twice, also while releases overlap.",
    "processes.*.stop_seconds": "What it gets to end after SIGTERM before it is killed.",
    "processes.*.memory_max_bytes": "The unit's memory limit.",
    "aliases": "Further names the site answers to.",
    "network": "Whether its processes may open connections to the network.",
    "databases[].name": "What to call the database.",
    "databases[].engine": "Which one it is.",
    "databases[].path": "SQLite: its file, below the data directory.",
    "databases[].url_key": "PostgreSQL: the environment's key that holds its URL.",
    "media": "Uploaded files, below the data directory; nginx serves them at `/media/`.",
    "environment.values": "The environment, in the open.",
    "environment.required": "Keys that must have a value; else nothing is touched.",
    "environment.secret": "Keys whose values come from Vault: `backstay_secrets['<name>']`.",
    "environment.isolated": "What takes their place, secrets too, on a host with a copy of another environment's data.",
    "environment.example": "An `.env.example`, relative to this file, whose every key must be known here.",
    "health.path": "Where the application says whether it is well.",
    "health.status": "The answer that means well.",
    "health.consecutive": "Good answers in a row before a candidate counts as well.",
    "health.interval_seconds": "Pause between two questions.",
    "health.deadline_seconds": "After this long without them, the candidate is refused.",
    "health.latency_seconds": "An answer that takes longer is not good.",
    "smoke[].name": "What to call it in messages.",
    "smoke[].path": "What to ask for; `auto:static` and `auto:media` stand for a file that is really there.",
    "smoke[].status": "The expected status.",
    "smoke[].contains": "Text the body must hold.",
    "smoke[].through": "The candidate is asked before the flip, the front door after it. `auto:`: the latter only.",
    "internal_addresses": "Who may see `/metrics` and the details of the health answer.",
    "uploads_max_bytes": "Larger request bodies are refused with 413.",
    "log_level": "Of gunicorn, and given to the application as `BACKSTAY_LOG_LEVEL`.",
    "releases.keep": "How many good releases stay on the host.",
    "releases.keep_restore_points": "How many restore points of maintenance releases stay.",
    "releases.promoted_from": "Only what was proven live in this stage is released here.",
    "releases.watch.seconds": "How long a new release is compared with the one before; 0 does not watch.",
    "releases.watch.least_requests": "How many requests and probes are needed to judge.",
    "releases.watch.error_ratio": "More 5xx than before, as a share of requests, that counts as bad.",
    "releases.watch.slower_factor": "Slower than before by this factor and by `slower_seconds` counts as bad.",
    "releases.watch.slower_seconds": "See `slower_factor`.",
    "releases.watch.probe_interval_seconds": "How often the front door is asked through a release.",
    "releases.watch.inconclusive": "What becomes of a release of which too little was seen.",
    "releases.migrations.lock_seconds": "How long a migration waits for a lock.",
    "releases.migrations.statement_seconds": "How long one statement may take (PostgreSQL).",
    "releases.migrations.seconds": "How long all migrations of a release may take.",
    "releases.migrations.rebuild_seconds": "How long SQLite may rewrite a table beside a live release.",
    "releases.drain_seconds": "How long old requests may take to finish before a former release is stopped.",
    "releases.confirm_seconds": "How long a flipped release waits to be confirmed before it flips back by itself.",
    "releases.free_bytes": "Disk that must stay free beside a new release.",
    "releases.free_inodes": "Inodes that must stay free.",
    "releases.free_memory_bytes": "Memory that must stay free beside the candidate.",
    "stage": "What this inventory's environment is called.",
    "hooks.before_prepare": "Commands in the live release's environment, before anything is done.",
    "hooks.after_prepare": "Commands in the new release's environment; one that fails undoes it.",
    "hooks.before_close": "Before the door is closed (maintenance).",
    "hooks.after_close": "Behind the closed door, after the restore point.",
    "hooks.before_flip": "Before visitors get the new release.",
    "hooks.after_flip": "After they got it.",
    "hooks.before_watch": "Before it is watched.",
    "hooks.after_watch": "After it was found good.",
    "hooks.before_confirm": "Before it is written down as live.",
    "hooks.after_confirm": "After it, when nothing is open any more: no rollback waits for it, and one that fails is "
    "told in the log of the transaction's service.",
    "hooks.on_failure": "When a release was undone and nothing is open any more; `BACKSTAY_HOOK_ERROR` says why.",
    "hooks.on_review": "A day after a release; `BACKSTAY_HOOK_SUMMARY` holds the summary.",
    "backfills.*.command": "Does one batch; exit code 75 asks to be called again, 0 says that nothing is left.",
    "backfills.*.pause_seconds": "The pause between batches.",
    "backup.repositories.*.location": "A directory, `sftp:user@host:/path`, or `s3:https://host/bucket/path`.",
    "backup.repositories.*.append_only": "What writes to it cannot remove: only `prune` credentials do.",
    "backup.repositories.*.own_disk": "A directory must be on another file system than the data.",
    "backup.repositories.*.read_back": "Read all data back after each backup (L3), also where that is not cheap.",
    "backup.repositories.*.expire_uploads_days": "The bucket's own lifecycle removes objects after so many days.",
    "backup.keep.daily": "The newest good restore point of so many days stays.",
    "backup.keep.weekly": "That of so many weeks.",
    "backup.keep.monthly": "That of so many months.",
    "backup.keep.within_days": "All that are younger stay.",
    "backup.repositories.*.keep.daily": "As `backup.keep.daily`, for this repository.",
    "backup.repositories.*.keep.weekly": "As `backup.keep.weekly`, for this repository.",
    "backup.repositories.*.keep.monthly": "As `backup.keep.monthly`, for this repository.",
    "backup.repositories.*.keep.within_days": "As `backup.keep.within_days`, for this repository.",
    "backup.at": "When it runs each day, in the server's zone.",
    "backup.scheduler": "What starts it; a run that was missed is caught up.",
    "backup.before_release": "A release makes a restore point first, and names it in the ledger.",
    "backup.shrink_ratio": "A restore point with less than this share of the one before holds expiring back.",
    "backup.copy_seconds": "How long the copy of one database may take.",
    "backup.seconds": "How long a run may take.",
    "backup.max_age_hours": "An older newest restore point is a failure.",
    "backup.canaries[].name": "What to call it in messages.",
    "backup.canaries[].database": "Which database it asks.",
    "backup.canaries[].query": "One SELECT whose answer must survive.",
    "backup.files[].database": "Which database it asks.",
    "backup.files[].query": "One SELECT whose first column names uploaded files below `media`.",
    "backup.newest[].database": "Which database it asks.",
    "backup.newest[].query": "One SELECT for the time of the newest row: the recovery point.",
    "backup.retention": "The application's command that deletes what is too old; a restore runs it before it opens.",
    "backup.proof.nightly": "When the newest restore point is proven (L4), in the server's zone.",
    "backup.proof.memory_max_bytes": "The memory limit of a proof.",
    "backup.proof.seconds": "How long a proof may take.",
    "backup.proof.level4_max_age_hours": "An older L4 proof makes `status` say so.",
    "backup.proof.level5_max_age_days": "An older L5 proof makes `status` say so.",
    "backup.keep_generations": "How many earlier generations of the data stay beside the live one.",
    "objectives.cpu": "Share of all cores in use, over five minutes; of a host's applications the lowest counts.",
    "objectives.memory": "Share of the memory in use, over five minutes.",
    "objectives.disk": "Share of any mount in use, of bytes or of inodes.",
    "objectives.load_per_core": "Load of a core, over ten minutes.",
    "objectives.response_seconds": "Mean time of an answer, over five minutes and at least 20 answers.",
    "objectives.p95_seconds": "95 of 100 answers must be faster, over five minutes and at least 20 answers.",
    "objectives.error_ratio": "Share of answers 5xx that warns, over ten minutes.",
    "objectives.server_error_ratio": "Share of answers 5xx that is a page, over five minutes.",
    "objectives.requests_per_minute": "More than this advises to scale, over ten minutes.",
    "objectives.uptime": "Share of the last 30 days in which the application must be well; the rest is its budget.",
    "objectives.certificate_days": "With fewer days left the certificate's renewal is late.",
    "objectives.api_path": "Where paths of the API begin.",
    "objectives.api_seconds": "Mean time of an answer of the API.",
    "objectives.users": "More addresses than this within a minute count as many users at once.",
    "objectives.backup_success": "Share of the backups of 30 days that must succeed.",
    "objectives.recovery_seconds": "Within this a proven restore must be done; longer is yellow on the page.",
    "alerts.mail": "Who gets mail.",
    "alerts.chat": "The key in Vault (`backstay_secrets['<name>']`) of the webhook of a chat, as Slack has it.",
    "alerts.sender": "Whom mail comes from; without it, the host says.",
    "alerts.routes.cpu": "Which way a message about the processor goes.",
    "alerts.routes.memory": "About memory.",
    "alerts.routes.load": "About load.",
    "alerts.routes.disk": "About disks.",
    "alerts.routes.units": "About failed units of systemd.",
    "alerts.routes.health": "About an application that is not well.",
    "alerts.routes.response": "About slow answers.",
    "alerts.routes.p95": "About the slowest answers.",
    "alerts.routes.errors": "About errors above `error_ratio`.",
    "alerts.routes.server_errors": "About errors above `server_error_ratio`.",
    "alerts.routes.requests": "About many requests.",
    "alerts.routes.users": "About many users at once.",
    "alerts.routes.api": "About a slow API.",
    "alerts.routes.uptime": "About the budget of the uptime.",
    "alerts.routes.certificate": "About certificates.",
    "alerts.routes.backup": "About backups, and the age of the last proven one.",
    "alerts.routes.proof": "About proofs that failed.",
    "alerts.routes.jobs": "About jobs that failed, are late or missing.",
    "alerts.routes.release": "That there was a release, or one failed.",
    "alerts.routes.rollback": "That there was a rollback.",
    "alerts.routes.restore": "That data were restored.",
    "alerts.patterns[].name": "What to call lines that somebody must look into.",
    "alerts.patterns[].match": "What they hold.",
    "alerts.patterns[].file": "The file, below `/var/log/<app>/`.",
    "alerts.tickets.kind": "Where a ticket is opened, once for each cause.",
    "alerts.tickets.url": "Where the tracker's API makes issues, such as `https://api.github.com/repos/<owner>/<name>/issues`.",
    "alerts.tickets.token": "The key in Vault (`backstay_secrets['<name>']`) of its token.",
    "alerts.tickets.mail": "Whom tickets by mail go to.",
    "alerts.tickets.project": "Jira: the project's key.",
    "alerts.tickets.issue_type": "Jira: the kind of issue.",
    "alerts.tickets.labels": "What tickets are labelled with.",
    "schedules.scheduler": "What starts the jobs; exactly one of both is active.",
    "schedules.jobs.*.command": "What it runs, as the application's user ([which program](#first-word)).",
    "schedules.jobs.*.when": "When it is due, in the server's zone.",
    "schedules.jobs.*.timeout_seconds": "After this long the whole of it is ended.",
    "schedules.jobs.*.memory_max_bytes": "The limit of its memory.",
    "schedules.jobs.*.overlap": "What becomes of a time that comes while it still runs: none, or one run right after.",
    "schedules.jobs.*.catch_up": "Whether what was missed is made up for; else it begins within its grace only.",
    "schedules.jobs.*.grace_seconds": "When it did not begin so long after its time, it is late.",
    "schedules.jobs.*.ping": "The key in Vault (`backstay_secrets['<name>']`) of the URL to tell of each run.",
    "schedules.jobs.*.from_version": "Older versions lack the command; while one of them is live, the job rests.",
    "schedules.jobs.*.needs_proof_hours": "It begins only with a restore point younger than this that is proven (L4).",
    "format": "The format of this file; a newer one is refused.",
}

_REFUSED = object()


def wanted(converter: Converter) -> str:
    """What a converter wants, in its own words."""
    problems: list[str] = []
    converter(_REFUSED, At("", "x", problems))
    said = _remedy(problems)
    if not said.startswith("a list, one "):
        return said
    converter([_REFUSED], At("", "x", problems))
    inner = _remedy(problems)
    if not inner.startswith("a list, one "):
        return f"a list, each {inner}"
    return f"a list, each {inner.replace(', one ', ' of ').replace(' an item', 's')}"


def _remedy(problems: list[str]) -> str:
    """The end of the last sentence, without what is so for all keys or would be no limit in practice."""
    said = problems[-1].rpartition(": write ")[2].removesuffix(".").removesuffix(", without quotes")
    return re.sub(r"from (\d+) to \d{13,}", r"of at least \1", said)


def section_of(hint: Any) -> tuple[Any, str]:
    """(dataclass, ending of the key) where a key holds a section, or a list or a mapping of them; else (None, "")."""
    if is_dataclass(hint):
        return hint, ""
    for inner in get_args(hint):
        if is_dataclass(inner) and isinstance(hint, UnionType):
            return inner, ""  # a section that may be left out
        if is_dataclass(inner):
            return inner, ".*" if issubclass(cast(Any, getattr(hint, "__origin__", type)), Mapping) else "[]"
    return None, ""


def default_of(declared: Field[Any]) -> str:
    if declared.default is MISSING and declared.default_factory is MISSING:
        return "**required**"
    value = declared.default if declared.default is not MISSING else cast(Any, declared.default_factory)()
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def keys(cls: Any = schema.Application, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, what to write, default) of every key of the file; those that must be given come first."""
    hints = get_type_hints(cls)
    described = keys_of(cls)
    for name in sorted(described, key=lambda name: name != "format"):
        converter, declared = described[name]
        inner, ending = section_of(hints[name])
        if inner is schema.Process:
            yield from process_keys()
        elif inner is not None:
            yield from keys(inner, f"{prefix}{name}{ending}.")
        elif name == "format":
            yield name, f"`{schema.FORMAT}`", "**required**"
        else:
            yield f"{prefix}{name}", wanted(converter), default_of(declared)


def process_keys() -> Iterator[tuple[str, str, str]]:
    """The web process and all others take different keys; defaults are those that a file without them is given."""
    file = {
        "format": schema.FORMAT,
        "name": "a",
        "domain": "a.example",
        "source": {"repository": "a"},
        "runtime": {"settings": "a", "wsgi": "a:a"},
        "processes": {"web": {}, "worker": {"command": ["a"]}},
    }
    made = schema.parse(file, file="").processes
    described = keys_of(schema.Process)
    for process, shown, left_out in (
        (made["web"], "web", schema._WORKER_ONLY),
        (made["worker"], "*", schema._WEB_ONLY),
    ):
        for name, (converter, _declared) in described.items():
            if name in left_out:
                continue
            value = getattr(process, name)
            default = f"`{value:g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"
            yield f"processes.{shown}.{name}", wanted(converter), "**required**" if name == "command" else default


def table() -> str:
    """The generated part of the guide, markers included. Raises KeyError for a key without a meaning."""
    found = list(keys())
    stale = sorted(set(MEANINGS) - {key for key, _wanted, _default in found})
    if stale:
        raise KeyError(f"tools/application_keys.py explains {', '.join(stale)}, which the schema does not have")
    rows = [f"| `{key}` | {what} | {default} | {MEANINGS[key]} |" for key, what, default in found]
    return "\n".join([BEGIN, "| key | write | default | meaning |", "|---|---|---|---|", *rows, END])


def wanted_guide(text: str) -> str:
    """The guide with the current table in its place."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{GUIDE} has no place for the table: it needs the two marker lines")
    return pattern.sub(lambda _found: table(), text)


def main(arguments: list[str]) -> int:
    """Write or check; exit code 1 when a check found a table that is not current."""
    text = GUIDE.read_text(encoding="utf-8")
    new = wanted_guide(text)
    if new != text and "--check" in arguments:
        print(f"not current: {GUIDE.relative_to(ROOT)}. Run: python tools/application_keys.py")
        return 1
    if new != text:
        GUIDE.write_text(new, encoding="utf-8")
        print(f"wrote {GUIDE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
