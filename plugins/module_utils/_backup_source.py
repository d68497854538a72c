"""What a backup of this host's application is made of: asked of the live release and of the ledger."""

from __future__ import annotations

from ._backup import Source
from ._host import Host


def source_of(host: Host) -> Source:
    """The source of a backup made now."""
    live = host.live()
    history = host.history()
    known = history.get(live)
    data = known.data if known else {}
    return Source(
        layout=host.layout,
        application=host.application(),
        release=live or "",
        version=known.version if known else "",
        payload=str(data.get("payload", "")),
        migrations=tuple(data.get("migrations_known", ())),
        environment=host.environment_of(live) if live else {},
        now=host.now,
        runner=host.runner,
        storage=host.storage,
        say=host.say,
        # A release that is still here can be gone back from: its restore point stays as long as it does.
        needed={
            str(release.data["backup_run"]): f"the release {release.id}"
            for release in history.ordered()
            if release.data.get("backup_run") and release.state not in ("pruned", "failed")
        },
    )
