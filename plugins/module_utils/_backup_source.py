"""What a backup of this host's application is made of: asked of the live release and of the ledger."""

from __future__ import annotations

from ._backup import Source
from ._host import Host
from ._retention import needed_by


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
        environment=host.environment_of(live) if live else host.declared_values(),
        now=host.now,
        runner=host.runner,
        storage=host.storage,
        say=host.say,
        needed=needed_by(history),
    )
