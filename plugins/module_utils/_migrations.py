"""What a migration does to the release before it, judged from its operations, and what a rollback over it needs.

Pure: facts in (`_django_agent.py` makes them), verdicts out. The release before is the one that serves while the
migration runs and that a rollback goes back to:

- additive: it reads and writes on the new schema as if nothing had happened;
- reversible: so it does, but data were changed, and the migration's own reverse takes that back;
- breaking: it cannot read or cannot write any more, or nobody can tell.

`undo` says what a rollback over the migration needs: `none`, `reverse`, or `irreversible` where something that the
release before knew is gone, so that only a restore point brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from ._errors import BackstayError

FORMAT = 1

Judgement = Literal["additive", "reversible", "breaking"]
Undo = Literal["none", "reverse", "irreversible"]
Facts = Mapping[str, Any]

_JUDGEMENTS: tuple[str, ...] = get_args(Judgement)
_UNDOS: tuple[str, ...] = get_args(Undo)

# How fast SQLite rewrites and indexes; `rebuild_estimate` says how this was measured.
ROWS_PER_SECOND = 500_000
BYTES_PER_SECOND = 20_000_000
INDEXED_ROWS_PER_SECOND = 150_000

_ENGINES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@dataclass(frozen=True)
class Finding:
    """What one operation means for the release before."""

    verdict: Judgement
    undo: Undo
    reason: str
    table: str = ""  # the table that a breaking one breaks; "" where nobody knows which


@dataclass(frozen=True)
class MigrationVerdict:
    """One migration, judged. `name` is `app.migration`, after `database:` where that is not the default one.

    `rebuild_seconds`: how long tables will be rewritten and indexed, an estimate. `needs_maintenance`: why it must not
    run beside a live release; None where it may. `creates` and `breaks` are tables ("" is any), `after` the migrations
    it names as its dependencies: a rollback over several migrations is judged by them.
    """

    name: str
    verdict: Judgement
    undo: Undo
    reasons: tuple[str, ...] = ()
    rebuild_seconds: float = 0.0
    needs_maintenance: str | None = None
    creates: tuple[str, ...] = ()
    breaks: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """All migrations of a release, in the order in which they are applied; the whole is as bad as the worst."""

    migrations: tuple[MigrationVerdict, ...] = ()

    @property
    def verdict(self) -> Judgement:
        return _worst_verdict(each.verdict for each in self.migrations)

    @property
    def undo(self) -> Undo:
        return _worst_undo(each.undo for each in self.migrations)

    @property
    def rebuild_seconds(self) -> float:
        return round(sum(each.rebuild_seconds for each in self.migrations), 1)

    @property
    def needs_maintenance(self) -> tuple[str, ...]:
        """One sentence for each migration that must not run beside a live release, with its name."""
        return tuple(f"{each.name}: {each.needs_maintenance}" for each in self.migrations if each.needs_maintenance)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for the ledger and the attestation."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "undo": self.undo,
            "migrations": [_plain(each) for each in self.migrations],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Back from JSON. Raises BackstayError for another format or a verdict that does not exist."""
        if data.get("format") != FORMAT:
            raise BackstayError(
                f"Verdicts on migrations have format {data.get('format')!r} and this backstay reads {FORMAT}: "
                "update the command on this host with site.yml."
            )
        try:
            return cls(tuple(_from_plain(each) for each in data["migrations"]))
        except (KeyError, TypeError, ValueError) as wrong:
            raise BackstayError(
                f"Recorded verdicts on migrations cannot be read ({wrong}): release it again."
            ) from wrong


@dataclass(frozen=True)
class WayBack:
    """What a rollback over some migrations needs.

    `kind`: `code` (nothing but the code), `reverse` (the migrations in `reverse` taken back first, newest first),
    `irreversible`, or `unmigrated` (of a newer release: migrations that it needs were taken back). `sentence` is for
    the plan; `reasons` say why, migration by migration.
    """

    kind: Literal["code", "reverse", "irreversible", "unmigrated"]
    sentence: str
    reverse: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def _plain(each: MigrationVerdict) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(each).items()}


def _from_plain(data: Mapping[str, Any]) -> MigrationVerdict:
    if data["verdict"] not in _JUDGEMENTS or data["undo"] not in _UNDOS:
        raise ValueError(f"{data['verdict']!r} with undo {data['undo']!r}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return MigrationVerdict(**values)


def _worst_verdict(verdicts: Iterable[Judgement]) -> Judgement:
    return max(verdicts, key=_JUDGEMENTS.index, default="additive")


def _worst_undo(undos: Iterable[Undo]) -> Undo:
    return max(undos, key=_UNDOS.index, default="none")


def rebuild_estimate(rows: int | None, size_bytes: int | None) -> float:
    """How long SQLite takes to rewrite a table of so many rows and bytes (with indexes), in seconds, at worst; 0 where
    neither is known.

    Measured on 2026-11-21 with SQLite 3.40 (WAL, synchronous=FULL), two cores under a load of 5 to 11, as Django does
    it (create, INSERT SELECT, drop, rename, all indexes again, commit):

        rows, MB        10 k, 2   100 k, 24   500 k, 118   1 M, 236   1 M, 142   200 k, 429   1 M, 271
        measured, s        0.03        0.56         2.64       10.7        8.3         19.3       13.3
        estimated, s       0.14        1.38         6.9        13.8        9.1         21.9       15.5

    PostgreSQL 15 took 16.4 s for 1 M rows and 266 MB (estimated 15.3), and 6.9 s to index them (6.7), at a load of 20.
    """
    return (rows or 0) / ROWS_PER_SECOND + (size_bytes or 0) / BYTES_PER_SECOND


# judging


def judge(facts: Sequence[Facts], *, rebuild_seconds: float, engine: str | None = None) -> Verdict:
    """The verdict on migrations from the agent's facts.

    One that rewrites or indexes tables for longer than `rebuild_seconds` needs maintenance. `engine`, `sqlite` or
    `postgresql`, replaces what the facts say.
    """
    return Verdict(tuple(_judge_one(each, rebuild_seconds, engine or each["engine"]) for each in facts))


def index_estimate(rows: int | None) -> float:
    """How long SQLite takes to index so many rows, in seconds, at worst: 1 M took 4.7 to 6.1 s, measured as above."""
    return (rows or 0) / INDEXED_ROWS_PER_SECOND


def _judge_one(facts: Facts, limit: float, engine: str) -> MigrationVerdict:
    findings = [_judge_operation(operation, engine) for operation in facts["operations"]]
    verdict = _worst_verdict(each.verdict for each in findings)
    pending = facts.get("pending", True)  # else another host of this database, or an earlier attempt, applied it
    long = [each for operation in facts["operations"] if pending for each in _long_work(operation, engine)]
    seconds = round(sum(each.seconds for each in long), 1)
    reasons = [each.reason for each in findings]
    needs = next((each.reason for each in findings if each.verdict == "breaking" and pending), None)
    if seconds > 0:
        what = "rewrites" if any(each.rewrites for each in long) else "indexes"
        tables = ", ".join(dict.fromkeys(each.table for each in long))
        said = f"{_ENGINES[engine]} {what} {tables} in about {seconds:g} s, while nobody can write"
        reasons.append(said)
        if seconds > limit and needs is None:
            needs = f"{said}, and no more than {limit:g} s is allowed (releases.migrations.rebuild_seconds)"
    return MigrationVerdict(
        name=facts["name"],
        verdict=verdict,
        undo=_worst_undo(each.undo for each in findings),
        reasons=tuple(dict.fromkeys(reason for reason in reasons if reason)),
        rebuild_seconds=seconds,
        needs_maintenance=needs,
        creates=tuple(table for operation in facts["operations"] for table in operation.get("creates", ())),
        breaks=tuple(dict.fromkeys(each.table for each in findings if each.undo != "none")),
        after=tuple(facts.get("after", ())),
    )


@dataclass(frozen=True)
class _Long:
    """Work that takes longer the larger a table is, and keeps writers out meanwhile."""

    table: str  # with its size
    seconds: float
    rewrites: bool


def _long_work(op: Facts, engine: str) -> Iterator[_Long]:
    """By what Django would tell the database (the facts have it: tables that are rewritten, and indexes that are not
    built concurrently); and on PostgreSQL a type that is stored in another way rewrites the table."""
    for each in op.get("rebuilds", ()):
        yield _Long(_table(each), rebuild_estimate(each["rows"], each["bytes"]), True)
    for each in op.get("indexes", ()):
        yield _Long(_table(each), index_estimate(each["rows"]), False)
    if engine != "postgresql" or op["state_only"] or op.get("new_table") or op.get("rows") is None:
        return
    if op["kind"] == "AlterField" and _stored_anew(str(op["old"]["type"]), str(op["new"]["type"])):
        yield _Long(_table(op), rebuild_estimate(op["rows"], op["bytes"]), True)


def _stored_anew(old: str, new: str) -> bool:
    """Whether PostgreSQL writes every row again for another type: not for a longer text, nor for more digits."""
    old_base, old_limits = _type(old)
    new_base, new_limits = _type(new)
    if not wider(old, new):
        return old != new
    texts = old_base in _TEXTS and new_base in _TEXTS
    return not (texts or (old_base == new_base and old_limits[1:] == new_limits[1:]))


def _judge_operation(op: Facts, engine: str) -> Finding:
    if op.get("unreadable"):
        return _breaking("irreversible", f"{op['kind']} cannot be judged ({op['unreadable']})", op)
    if op["state_only"]:
        return _harmless()
    if op["kind"] not in _JUDGES:
        return _breaking(
            "irreversible", f"{op['kind']} is not an operation of Django's: nobody can tell what it does", op
        )
    if op.get("new_table"):
        return _harmless()
    return _JUDGES[op["kind"]](op, engine)


def _harmless(reason: str = "") -> Finding:
    return Finding("additive", "none", reason)


def _breaking(undo: Undo, reason: str, op: Facts) -> Finding:
    return Finding("breaking", undo, reason, op.get("table", ""))


def _size(op: Facts) -> str:
    """How large a table is, in brackets, with the space before them; nothing where nobody knows."""
    rows, size = op.get("rows"), op.get("bytes")
    known = [] if rows is None else [f"{rows:,} row{'' if rows == 1 else 's'}"]
    known += [] if size is None else [_bytes(size)]
    return f" ({', '.join(known)})" if known else ""


def _bytes(size: int) -> str:
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _table(op: Facts) -> str:
    return f"{op['table']}{_size(op)}"


def _create_model(op: Facts, _engine: str) -> Finding:
    creates = ", ".join(op["creates"])
    refers = [table for table in op["refers_to"] if table not in op["creates"]]
    hint = f"; where its rows refer to {', '.join(refers)}, the release before cannot delete what they refer to"
    return _harmless(f"creates {creates}, which the release before does not know{hint if refers else ''}")


def _add_field(op: Facts, _engine: str) -> Finding:
    new, table = op["new"], _table(op)
    column = new["column"]
    if new["many_to_many"]:
        return _harmless(f"creates {new['many_to_many']}, which the release before does not know")
    if column is None:
        return _harmless()
    if new["primary_key"]:
        return _breaking("reverse", f"{table} gets another primary key, {column}", op)
    if new["generated"]:
        return _harmless(f"adds {op['table']}.{column}, which the database computes")
    filled = new["null"] or new["db_default"]
    if not filled:
        knows = "only Django knows its default" if new["default"] else "it has no default"
        return _breaking(
            "reverse",
            f"the release before cannot insert into {table}: {column} is NOT NULL and {knows}; "
            "use db_default or null=True",
            op,
        )
    if new["unique"] and new["db_default"]:
        return _breaking(
            "reverse",
            f"the release before can insert into {table} only once: {column} is unique and always gets one default",
            op,
        )
    how = "may be NULL" if new["null"] and not new["db_default"] else "gets its default from the database"
    held = f"; where it refers to a row of {new['refers_to']}, the release before cannot delete that row"
    return _harmless(f"adds {op['table']}.{column}, which {how}{held if new['refers_to'] else ''}")


def _remove_field(op: Facts, _engine: str) -> Finding:
    old, table = op["old"], _table(op)
    if op.get("new_column"):
        return _harmless()
    if old["many_to_many"]:
        return _breaking(
            "irreversible", f"drops {old['many_to_many']} with its rows, which the release before reads and writes", op
        )
    if old["column"] is None:
        return _harmless()
    undo: Undo = "reverse" if old["generated"] else "irreversible"
    return _breaking(
        undo,
        f"drops the column {old['column']} of {table} with its data, which the release before reads and writes",
        op,
    )


def _alter_field(op: Facts, engine: str) -> Finding:
    old, new = op["old"], op["new"]
    if op.get("new_column"):
        return _add_field({**op, "kind": "AddField"}, engine)
    if old["many_to_many"] or new["many_to_many"]:
        if old["many_to_many"] == new["many_to_many"]:
            return _harmless()
        return _breaking("irreversible", f"another table takes the place of {old['many_to_many'] or op['table']}", op)
    if old["column"] is None or new["column"] is None:
        if old["column"] is None and new["column"] is None:
            return _harmless()
        return _breaking("irreversible", f"the column of {op['field']} in {_table(op)} comes or goes", op)
    found = [each for each in (rule(op, old, new, engine) for rule in _ALTERING) if each is not None]
    worst = max(found, key=lambda each: (_JUDGEMENTS.index(each.verdict), _UNDOS.index(each.undo)), default=None)
    if worst is None:
        return _harmless(f"alters {op['table']}.{new['column']} in a way that the release before does not see")
    same = [each for each in found if each.verdict == worst.verdict]
    return Finding(worst.verdict, worst.undo, "; ".join(each.reason for each in same), worst.table)


def _altered_name(op: Facts, old: Facts, new: Facts, _engine: str) -> Finding | None:
    if old["column"] == new["column"]:
        return None
    return _breaking(
        "reverse", f"renames {op['table']}.{old['column']}, which the release before uses, to {new['column']}", op
    )


def _altered_type(op: Facts, old: Facts, new: Facts, _engine: str) -> Finding | None:
    if old["type"] == new["type"]:
        return None
    what = f"{op['table']}.{old['column']} from {old['type']} to {new['type']}"
    if wider(str(old["type"]), str(new["type"])):
        return _harmless(f"widens {what}")
    return _breaking(
        "irreversible", f"changes {what} in {_table(op)}: what the release before wrote or writes may not fit", op
    )


def _altered_null(op: Facts, old: Facts, new: Facts, _engine: str) -> Finding | None:
    if old["null"] == new["null"]:
        return None
    if new["null"]:
        return _harmless(
            f"{op['table']}.{new['column']} may be NULL from now on; the release before keeps writing values, and may "
            "meet a NULL that it does not expect"
        )
    reason = f"{new['column']} of {_table(op)} becomes NOT NULL, and the release before may still write NULL"
    if op.get("nulls") is False:
        return _breaking("reverse", reason, op)
    lost = "the NULLs that it holds" if op.get("nulls") else "whatever NULLs it holds"
    return _breaking("irreversible", f"{reason}; {lost} get a value, and nobody knows afterwards which they were", op)


def _altered_unique(op: Facts, old: Facts, new: Facts, _engine: str) -> Finding | None:
    if old["primary_key"] != new["primary_key"]:
        return _breaking("irreversible", f"{_table(op)} gets another primary key", op)
    if old["unique"] == new["unique"]:
        return None
    if not new["unique"]:
        return _harmless(f"{op['table']}.{new['column']} need not be unique any more")
    return _breaking(
        "reverse",
        f"{new['column']} of {_table(op)} becomes unique, and the release before may write the same twice",
        op,
    )


def _altered_default(op: Facts, old: Facts, new: Facts, engine: str) -> Finding | None:
    if old["db_default"] == new["db_default"]:
        return None
    # Django names the default itself where the database has no DEFAULT in an INSERT, as SQLite.
    if new["db_default"] or new["null"] or engine == "sqlite":
        return _harmless(f"{op['table']}.{new['column']} {'gets' if new['db_default'] else 'loses'} a default")
    return _breaking(
        "reverse",
        f"the release before leaves {new['column']} of {_table(op)} to the database's default, which goes",
        op,
    )


def _altered_checks(op: Facts, old: Facts, new: Facts, _engine: str) -> Finding | None:
    if new["check"] and old["check"] != new["check"]:
        return _breaking(
            "reverse", f"{new['column']} of {_table(op)} gets a check that what the release before writes may fail", op
        )
    if new["refers_to"] and old["refers_to"] != new["refers_to"]:
        undo: Undo = "irreversible" if old["refers_to"] else "reverse"
        return _breaking(
            undo,
            f"{new['column']} of {_table(op)} must refer to {new['refers_to']} from now on, and the release before may "
            "write what does not",
            op,
        )
    if old["collation"] != new["collation"]:
        return _breaking(
            "reverse", f"{new['column']} of {_table(op)} is compared and sorted in another way (collation)", op
        )
    return None


_ALTERING = (_altered_name, _altered_type, _altered_null, _altered_unique, _altered_default, _altered_checks)

_WHOLE_NUMBERS = ("smallint", "integer", "bigint")
_TEXTS = ("text", "varchar")


def wider(old: str, new: str) -> bool:
    """Whether every value of one column type fits another, as Django writes types (`varchar(20)`, `numeric(8, 2)`)."""
    old_base, old_limits = _type(old)
    new_base, new_limits = _type(new)
    if old_base in _WHOLE_NUMBERS and new_base in _WHOLE_NUMBERS:
        return _WHOLE_NUMBERS.index(new_base) >= _WHOLE_NUMBERS.index(old_base)
    if old_base in _TEXTS and new_base in _TEXTS:
        return not new_limits or (bool(old_limits) and new_limits >= old_limits)
    if old_base == new_base and new_base in ("numeric", "decimal"):
        if not new_limits:
            return True
        if len(old_limits) != 2 or len(new_limits) != 2:
            return False
        return new_limits[1] >= old_limits[1] and new_limits[0] - new_limits[1] >= old_limits[0] - old_limits[1]
    return False


def _type(text: str) -> tuple[str, tuple[int, ...]]:
    base, _unused, rest = text.lower().partition("(")
    limits = tuple(int(part) for part in rest.partition(")")[0].split(",") if part.strip().isdigit())
    base = base.strip().removesuffix(" unsigned").removesuffix(" autoincrement").strip()
    return {"character varying": "varchar", "serial": "integer", "bigserial": "bigint"}.get(base, base), limits


def _rename_field(op: Facts, engine: str) -> Finding:
    if op.get("new_column"):
        return _harmless()
    return _altered_name(op, op["old"], op["new"], engine) or _harmless()


def _delete_model(op: Facts, _engine: str) -> Finding:
    return _breaking("irreversible", f"drops {_table(op)} with its rows, which the release before reads and writes", op)


def _rename_table(op: Facts, _engine: str) -> Finding:
    if op["table"] == op["new_table_name"]:
        return _harmless()
    return _breaking("reverse", f"renames {_table(op)}, which the release before uses, to {op['new_table_name']}", op)


def _together(op: Facts, _engine: str) -> Finding:
    if op["kind"] == "AlterIndexTogether" or not op["added"]:
        return _harmless()
    return _breaking("reverse", f"{_table(op)} gets a rule that the release before may violate: {_sets(op)} unique", op)


def _sets(op: Facts) -> str:
    return " and ".join(f"({', '.join(names)})" for names in op["added"])


def _order(op: Facts, _engine: str) -> Finding:
    if op["had"] == op["has"]:
        return _harmless()
    if op["has"]:
        reason = (
            f"the release before cannot insert into {_table(op)}: _order is NOT NULL and only Django knows its default"
        )
        return _breaking("reverse", reason, op)
    return _breaking("irreversible", f"drops the column _order of {_table(op)}, which the release before uses", op)


def _add_index(op: Facts, engine: str) -> Finding:
    waits = engine == "postgresql" and op["kind"] == "AddIndex"
    hint = f"; nobody can write to {_table(op)} while it is built, which AddIndexConcurrently would allow"
    return _harmless(f"adds the index {op['index']} to {op['table']}{hint if waits else ''}")


def _less(op: Facts, _engine: str) -> Finding:
    gone = op.get("index") or op.get("constraint")
    return _harmless(f"takes {gone} from {op['table']}, which the release before can do without")


def _add_constraint(op: Facts, _engine: str) -> Finding:
    if op["left_empty"]:
        return _harmless(f"adds {op['constraint']} to {op['table']}, on a column that the release before leaves empty")
    return _breaking(
        "reverse",
        f"{_table(op)} gets a rule that the release before may violate: {op['constraint']} ({op['constraint_kind']})",
        op,
    )


def _run_python(op: Facts, _engine: str) -> Finding:
    if op["noop"]:
        return _harmless()
    what = f"{op['code']}() changes data"
    if not op["reversible"]:
        return _breaking("irreversible", f"{what} and has no reverse", op)
    if op["reverse_noop"]:
        return _harmless(f"{what}; its author says that nothing need be taken back")
    return Finding("reversible", "reverse", f"{what}; its reverse takes that back")


_ADDING_SQL = (
    "CREATE INDEX",
    "CREATE VIEW",
    "CREATE TABLE",
    "CREATE EXTENSION",
    "COMMENT ON",
    "ANALYZE",
)
_DATA_SQL = ("INSERT", "UPDATE", "DELETE", "SELECT", "WITH", "REPLACE")


def _run_sql(op: Facts, _engine: str) -> Finding:
    verbs: Sequence[str] = op["verbs"]
    if not verbs:
        return _harmless()
    what = f"SQL of its own ({', '.join(dict.fromkeys(verbs))})"
    if not op["reversible"]:
        return _breaking("irreversible", f"{what} has no reverse", op)
    if all(verb.split()[0] in _DATA_SQL for verb in verbs):
        if not op["reverse_verbs"]:
            return _harmless(f"{what} changes data; its author says that nothing need be taken back")
        return Finding("reversible", "reverse", f"{what} changes data; its reverse takes that back")
    if all(verb.startswith(_ADDING_SQL) for verb in verbs):
        return _harmless(f"{what} only adds")
    return _breaking("reverse", f"{what} changes the schema, and nobody can tell how; it has a reverse", op)


def _nothing(_op: Facts, _engine: str) -> Finding:
    return _harmless()


def _remove_collation(op: Facts, _engine: str) -> Finding:
    return _breaking("reverse", "removes a collation, which the release before may use", op)


_JUDGES: Mapping[str, Callable[[Facts, str], Finding]] = {
    "CreateModel": _create_model,
    "DeleteModel": _delete_model,
    "RenameModel": _rename_table,
    "AlterModelTable": _rename_table,
    "AlterModelTableComment": _nothing,
    "AlterModelOptions": _nothing,
    "AlterModelManagers": _nothing,
    "AlterUniqueTogether": _together,
    "AlterIndexTogether": _together,
    "AlterOrderWithRespectTo": _order,
    "AddField": _add_field,
    "RemoveField": _remove_field,
    "AlterField": _alter_field,
    "RenameField": _rename_field,
    "AddIndex": _add_index,
    "AddIndexConcurrently": _add_index,
    "RemoveIndex": _less,
    "RemoveIndexConcurrently": _less,
    "RenameIndex": _nothing,
    "AddConstraint": _add_constraint,
    "AddConstraintNotValid": _add_constraint,
    "RemoveConstraint": _less,
    "AlterConstraint": _nothing,
    "ValidateConstraint": _nothing,
    "RunSQL": _run_sql,
    "RunPython": _run_python,
    **dict.fromkeys(
        (
            "CreateExtension",
            "BloomExtension",
            "BtreeGinExtension",
            "BtreeGistExtension",
            "CITextExtension",
            "CryptoExtension",
            "HStoreExtension",
            "TrigramExtension",
            "UnaccentExtension",
            "CreateCollation",
        ),
        _nothing,
    ),
    "RemoveCollation": _remove_collation,
}


# going back


def rollback_verdict(
    between: Sequence[str],
    recorded: Mapping[str, MigrationVerdict],
    *,
    restore_point: str | None = None,
    now: str | None = None,
) -> WayBack:
    """What a rollback over the migrations `between` needs: those that are applied and that its target does not know.

    `recorded` are the verdicts of the releases that applied them; a migration without one counts as irreversible.
    `restore_point` is when the newest usable one was taken and `now` what time it is, both ISO 8601 with a zone.
    """
    verdicts = [recorded[name] for name in between if name in recorded]
    created = {table for each in verdicts for table in each.creates}
    unknown = [name for name in between if name not in recorded]
    needed = [each for each in verdicts if each.undo != "none" and not (each.breaks and set(each.breaks) <= created)]
    lost = [each for each in needed if each.undo == "irreversible"]
    reasons = [f"{name}: no verdict was recorded when it was applied" for name in unknown]
    reasons += [f"{each.name}: {reason}" for each in lost or needed for reason in each.reasons]
    if lost or unknown:
        names = ", ".join([*unknown, *(each.name for each in lost)])
        return WayBack("irreversible", f"irreversible ({names}): {_losing(restore_point, now)}", (), tuple(reasons))
    if needed:
        back = _with_dependents([each.name for each in needed], verdicts)
        named = ", ".join(back)
        return WayBack("reverse", f"needs reverse of {named} (reversible)", tuple(back), tuple(reasons))
    stays = f"; {', '.join(between)} {'stays' if len(between) == 1 else 'stay'}" if between else ""
    return WayBack("code", f"code only, safe{stays}")


def _with_dependents(names: Sequence[str], verdicts: Sequence[MigrationVerdict]) -> list[str]:
    """The named migrations and those that come after them by their dependencies, newest first."""
    found = set(names)
    grown = True
    while grown:
        more = {each.name for each in verdicts if found & set(each.after)} - found
        found |= more
        grown = bool(more)
    return [each.name for each in reversed(verdicts) if each.name in found]


def _losing(restore_point: str | None, now: str | None) -> str:
    if restore_point is None:
        return "there is no restore point to go back to"
    if now is None:
        return f"restore point {restore_point}, losing what was written since"
    seconds = (datetime.fromisoformat(now) - datetime.fromisoformat(restore_point)).total_seconds()
    minutes = max(1, round(seconds / 60))
    return f"restore point {restore_point}, losing {minutes:,} minute{'' if minutes == 1 else 's'}"
