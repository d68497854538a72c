"""Where everything of one application lives on a host: the only place that spells these paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths and unit names of the application `name`, below `root` (which tests move)."""

    name: str
    root: Path = Path("/")

    # /opt: what the application is
    @property
    def home(self) -> Path:
        return self.root / "opt" / self.name

    @property
    def releases(self) -> Path:
        return self.home / "releases"

    @property
    def environments(self) -> Path:
        return self.home / "environments"

    @property
    def active(self) -> Path:
        """The link that nginx follows at each connect: THE source of truth for what is live."""
        return self.home / "active"

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def generations(self) -> Path:
        return self.home / "data.d"

    @property
    def static(self) -> Path:
        return self.home / "static"

    @property
    def maintenance_flag(self) -> Path:
        return self.home / "maintenance.on"

    @property
    def backup_stage(self) -> Path:
        """Where a backup is put together: on the file system of the data, so that media need no second copy."""
        return self.generations / ".backup"

    def generation(self, name: str) -> Path:
        return self.generations / name

    def release(self, release_id: str) -> Path:
        return self.releases / release_id

    # /etc: what it was told
    @property
    def configuration(self) -> Path:
        return self.root / "etc" / "backstay" / self.name

    @property
    def application_file(self) -> Path:
        return self.configuration / "application.json"

    @property
    def secrets_file(self) -> Path:
        return self.configuration / "secrets.json"

    @property
    def isolated(self) -> Path:
        """There where this host has a copy of another environment's data: no worker, no job, no backup runs here."""
        return self.configuration / "isolated"

    @property
    def rebuilding(self) -> Path:
        """There from when a rebuild releases until its data are restored: what is here is empty until then."""
        return self.state / "rebuilding"

    def resting(self) -> str:
        """Why no worker and no job runs here, after the application's name; nothing where they do."""
        if self.isolated.exists():
            return f"is isolated on this host ({self.isolated})"
        return (
            f"is being rebuilt, and its data are still to come ({self.rebuilding})" if self.rebuilding.exists() else ""
        )

    @property
    def allowed_signers(self) -> Path:
        """Who may vouch for payloads."""
        return self.configuration / "allowed_signers"

    @property
    def backup_secrets(self) -> Path:
        """What the repositories are opened with; never part of the application's environment."""
        return self.configuration / "backup.json"

    @property
    def replaced_passwords(self) -> Path:
        """Salted hashes of the passwords that rekeying replaced here."""
        return self.configuration / "replaced_passwords.json"

    @property
    def backup_key(self) -> Path:
        """The key with which this host signs its manifests; its public half has the suffix .pub."""
        return self.configuration / "backup_key"

    @property
    def trusted_keys(self) -> Path:
        """Public keys of hosts before this one, whose manifests are believed too."""
        return self.configuration / "backup_trusted_keys"

    @property
    def escrowed(self) -> Path:
        """When the last offline key was written here, and which keys it vouches for."""
        return self.state / "escrow.json"

    def release_configuration(self, release_id: str) -> Path:
        return self.configuration / "releases" / release_id

    def environment_file(self, release_id: str) -> Path:
        return self.release_configuration(release_id) / "environment"

    # /run: what is running
    @property
    def runtime(self) -> Path:
        return self.root / "run" / self.name

    def socket(self, release_id: str) -> Path:
        return self.runtime / release_id / "web.sock"

    @property
    def control_socket(self) -> Path:
        return self.root / "run" / "backstay" / f"{self.name}.sock"

    @property
    def seen_errors(self) -> Path:
        """The kinds of error that `status` found last; gone with a reboot."""
        return self.root / "run" / "backstay" / f"{self.name}.errors.json"

    # /var: what happened
    @property
    def state(self) -> Path:
        return self.root / "var" / "lib" / "backstay" / self.name

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.jsonl"

    @property
    def journal(self) -> Path:
        return self.state / "journal.jsonl"

    @property
    def old_journals(self) -> Path:
        return self.state / "journal.d"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def artifacts(self) -> Path:
        return self.state / "artifacts"

    def payload(self, sha256: str) -> Path:
        return self.artifacts / f"{sha256}.tar"

    def proof(self, sha256: str, name: str) -> Path:
        """What vouches for a payload lies beside it: attestation.json, proven-<stage>.json, and their .sig."""
        return self.artifacts / f"{sha256}.{name}"

    @property
    def restore_points(self) -> Path:
        return self.state / "restore-points"

    @property
    def data_lock(self) -> Path:
        """Held by whoever reads or changes the data as a whole: a backup, a migration, a restore."""
        return self.state / "data.lock"

    @property
    def review_lock(self) -> Path:
        """Held by whoever sums up the day after a release."""
        return self.state / "review.lock"

    @property
    def backups(self) -> Path:
        """The catalogue of restore points: a chain of events, like the ledger."""
        return self.state / "backups.jsonl"

    @property
    def backup_runs(self) -> Path:
        return self.state / "backups"

    def backup_run(self, run: str) -> Path:
        """A run's manifest and seals, kept outside of the repositories."""
        return self.backup_runs / run

    @property
    def bucket_rules(self) -> Path:
        """The lifecycle rules of the repositories' buckets, as they were answered last."""
        return self.state / "bucket-rules.json"

    @property
    def proofs(self) -> Path:
        return self.state / "proofs"

    @property
    def proof_scratch(self) -> Path:
        """Where restore points are restored in isolation; nothing stays in it."""
        return self.state / "scratch"

    @property
    def repository_cache(self) -> Path:
        return self.root / "var" / "cache" / "backstay" / self.name

    @property
    def ballast(self) -> Path:
        return self.state / "ballast"

    @property
    def freeze(self) -> Path:
        return self.state / "freeze.json"

    def backfill(self, name: str) -> Path:
        return self.state / f"backfill-{name}.json"

    @property
    def logs(self) -> Path:
        return self.root / "var" / "log" / self.name

    # scheduled commands
    @property
    def jobs(self) -> Path:
        """What became of each run, a file for each job; their locks; since when each is declared."""
        return self.state / "jobs"

    @property
    def declared_jobs(self) -> Path:
        return self.jobs / "declared.json"

    def job_results(self, job: str) -> Path:
        return self.jobs / f"{job}.jsonl"

    def job_lock(self, job: str) -> Path:
        return self.jobs / f"{job}.lock"

    def job_asked(self, job: str) -> Path:
        """Somebody wants a run although none is due."""
        return self.root / "run" / "backstay" / f"{self.name}.{job}.asked"

    # systemd
    @property
    def units(self) -> Path:
        return self.root / "etc" / "systemd" / "system"

    def unit(self, release_id: str, process: str) -> str:
        return f"{self.name}-{release_id}-{process}.service"

    @property
    def transaction_socket_unit(self) -> str:
        return f"backstay-transaction@{self.name}.socket"

    @property
    def transaction_unit(self) -> str:
        return f"backstay-transaction@{self.name}.service"

    @property
    def review_timer(self) -> str:
        return f"backstay-review@{self.name}.timer"

    @property
    def backup_timer(self) -> str:
        return f"backstay-backup@{self.name}.timer"

    @property
    def verify_timer(self) -> str:
        return f"backstay-verify@{self.name}.timer"

    @property
    def skipped_timer(self) -> str:
        """Asks each hour whether the clock skipped the time of the backup or of the proof."""
        return f"backstay-skipped@{self.name}.timer"

    # In the instance a colon parts application and job: neither can have one, and systemd needs no escape for it.
    def job_unit(self, job: str) -> str:
        return f"backstay-job@{self.name}:{job}.service"

    def job_timer(self, job: str) -> str:
        return f"backstay-job@{self.name}:{job}.timer"

    def job_process(self, job: str) -> str:
        """The unit of the command itself, in the confinement of a release. No release's unit is called like this, so
        settling does not stop it."""
        return f"backstay-running-{self.name}:{job}.service"

    @property
    def jobs_timer(self) -> str:
        """Asks each hour whether a run was missed."""
        return f"backstay-jobs@{self.name}.timer"

    @property
    def recover_unit(self) -> str:
        return f"backstay-recover@{self.name}.service"


def applications(root: Path = Path("/")) -> tuple[str, ...]:
    """The names of the applications that are declared on a host."""
    try:
        names = sorted(entry.name for entry in os.scandir(root / "etc" / "backstay") if entry.is_dir())
    except FileNotFoundError:
        return ()
    return tuple(name for name in names if Layout(name, root).application_file.exists())
