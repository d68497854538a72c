"""A host whose applications have scheduled commands: their timers or cron's files, and since when each is declared.

Nothing here runs a job. `JobHost` reads the host and carries a plan out, for all applications at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import _jobs, _schedule_host
from ._application import parse
from ._errors import BackstayError
from ._file_set import Entry, FileSet, diff
from ._file_set import Plan as FilePlan
from ._job_results import declaration, declared_since, server_zone
from ._job_settings import Schedules
from ._layout import Layout
from ._run import Runner, run
from ._schedule import CRON, Schedule
from ._schedule import Plan as SchedulePlan
from ._schedule import plan as plan_schedule
from ._storage import Storage
from ._systemd import Systemd

_TEMPLATE = "backstay-job@.timer"


@dataclass(frozen=True)
class Plan:
    """What is to be done, for all applications. `declared` are the files that say since when a job is declared."""

    files: FilePlan
    entries: tuple[Entry, ...]
    schedules: tuple[SchedulePlan, ...]
    declared: tuple[tuple[Layout, bytes], ...]

    @property
    def changed(self) -> bool:
        return bool(self.files.changed or self.declared or any(each.changed for each in self.schedules))


class JobHost:
    """The adapter. `root` is moved by tests, for what Backstay itself lays out."""

    def __init__(
        self,
        applications: Sequence[Mapping[str, object]],
        *,
        adopt: bool = False,
        root: Path = Path("/"),
        storage: Storage | None = None,
        runner: Runner = run,
        files: FileSet | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises InputError for an application that is described wrongly."""
        self._subjects: list[tuple[Layout, Schedules]] = []
        for given in applications:
            application = parse(given, file=f"applications/{given.get('name', '<name>')}.yml")
            self._subjects.append((Layout(application.name, root), application.schedules))
        self._adopt = adopt
        self._storage = storage or Storage()
        self._run = runner
        self._files = files or FileSet(storage=self._storage, runner=runner)
        self._clock = clock

    def plan(self) -> Plan:
        """What would change. Raises InputError where something cannot be."""
        wanted = [
            _jobs.schedule(layout, settings, self._known(layout), server_zone(layout.root)[0])
            for layout, settings in self._subjects
        ]
        entries = _schedule_host.entries(wanted)
        units = sorted({unit for each in wanted for unit in (*each.on, *each.off)})
        enabled, active = Systemd(self._run).enabled_and_active(units)
        return Plan(
            files=self._files.plan(entries, adopt=self._adopt),
            entries=entries,
            schedules=tuple(plan_schedule(each, self._texts(each), enabled, active) for each in wanted),
            declared=tuple(
                (layout, content)
                for layout, settings in self._subjects
                if (content := self._declaration(layout, settings)) is not None
            ),
        )

    def apply(self, planned: Plan) -> tuple[str, ...]:
        """Carry the plan out; each part can be done twice. Returns lines for people. Raises BackstayError."""
        self._need_units(planned)
        for layout, content in planned.declared:
            self._storage.make_directory(layout.jobs, mode=0o700)
            self._storage.write(layout.declared_jobs, content, mode=0o600)
        return _schedule_host.bring(planned.entries, planned.schedules, self._files, self._run, adopt=self._adopt)

    def diff(self, planned: Plan) -> list[dict[str, str]]:
        """What changes, for people."""
        shown = diff(planned.files)
        lines = _schedule_host.told(planned.schedules)
        for layout, _content in planned.declared:
            lines.append(f"jobs of {layout.name} count from now on, where their time is new\n")
        return [*shown, {"before": "", "after": "".join(lines)}] if lines else shown

    def _known(self, layout: Layout) -> set[str]:
        """The jobs of an application that have a timer here, by a drop-in or by being enabled."""
        found = set()
        wants = layout.units / "timers.target.wants"
        for path in (*layout.units.glob("backstay-job@*.timer.d/time.conf"), *wants.glob("backstay-job@*.timer")):
            name = _jobs.job_of(layout, (path.parent if path.name == "time.conf" else path).name.removesuffix(".d"))
            found |= {name} if name else set()
        return found

    def _texts(self, wanted: Schedule) -> dict[Path, str | None]:
        contents = {path: self._storage.read(path) for path in wanted.files}
        return {path: None if each is None else each.decode(errors="replace") for path, each in contents.items()}

    def _declaration(self, layout: Layout, settings: Schedules) -> bytes | None:
        """The file that says since when each job is declared, where it must change."""
        content = self._storage.read(layout.declared_jobs)
        before = {name: when for name, (when, _since) in declared_since(content).items()}
        after = {name: job.when for name, job in settings.jobs.items()}
        return None if before == after else declaration(settings, content, self._clock())

    def _need_units(self, planned: Plan) -> None:
        starts = set(_schedule_host.units(planned.schedules, "start")) - {CRON}
        if starts and not (self._subjects[0][0].units / _TEMPLATE).exists():
            raise BackstayError(
                f"The backstay command is not installed on this host ({_TEMPLATE} is missing): run role base, or the "
                "module host_command, first."
            )
