"""Where what belongs to the whole host lives, and to no one application: the only place that spells these paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ._layout import Layout, applications


@dataclass(frozen=True)
class House:
    """Paths of what Backstay knows about the host as a whole, below `root` (which tests move)."""

    root: Path = Path("/")

    @property
    def state(self) -> Path:
        """Root's alone, 0700. No application can have this name."""
        return self.root / "var" / "lib" / "backstay" / ".host"

    @property
    def samples(self) -> Path:
        """A file for each day, a line for each minute."""
        return self.state / "samples"

    @property
    def hours(self) -> Path:
        """What the days before were folded to: a line for each hour."""
        return self.state / "hours.jsonl"

    @property
    def observed(self) -> Path:
        """Where the observer was: counters, places in logs, what it has told of."""
        return self.state / "observed.json"

    @property
    def observer_lock(self) -> Path:
        return self.state / "observer.lock"

    @property
    def reserve(self) -> Path:
        """Room for the observer on a disk that is full: it gives this away, so that somebody is told."""
        return self.state / "reserve"

    @property
    def incidents(self) -> Path:
        """What is open, since when, and what was said about it."""
        return self.state / "incidents.json"

    @property
    def incident_log(self) -> Path:
        """Each beginning and each end, a line each."""
        return self.state / "incidents.jsonl"

    @property
    def incidents_lock(self) -> Path:
        return self.state / "incidents.lock"

    @property
    def outbox(self) -> Path:
        """Messages that wait to be delivered, a file for each and each destination."""
        return self.state / "outbox"

    @property
    def deliveries(self) -> Path:
        """What became of the last messages."""
        return self.state / "deliveries.json"

    @property
    def healed(self) -> Path:
        """When which service was restarted because it hung."""
        return self.state / "healed.json"

    @property
    def digest(self) -> Path:
        """When the daily digest was last sent."""
        return self.state / "digest.json"

    @property
    def digest_timer(self) -> Path:
        """There where a daily digest is asked for."""
        return self.root / "etc" / "systemd" / "system" / "backstay-digest.timer"

    @property
    def sendmail(self) -> Path:
        return self.root / "usr" / "sbin" / "sendmail"

    def applications(self) -> tuple[str, ...]:
        """The names of the applications that are declared here."""
        return applications(self.root)

    def layout(self, application: str) -> Layout:
        return Layout(application, self.root)


class ProbeHouse(House):
    """What this host watches of others (`backstay probe`) has incidents and an outbox of its own, beside those of what
    it watches of itself: neither observer tells, settles or sends what is the other's."""

    @property
    def state(self) -> Path:
        """Root's alone, 0700."""
        return self.root / "var" / "lib" / "backstay" / ".probe"

    @property
    def targets(self) -> Path:
        """Whom it watches, and who is told: root's alone, since addresses of chats are secrets."""
        return self.root / "etc" / "backstay" / "probe.json"

    @property
    def minutes(self) -> Path:
        """Of each application how many minutes of each day it was up, down, or in maintenance."""
        return self.state / "minutes.json"
