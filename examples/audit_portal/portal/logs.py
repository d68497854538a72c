"""Log records as JSON, one on each line, with the release and the request they belong to."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from django.conf import settings

request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object; what was passed as `extra={"data": {...}}` appears under "data"."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "release_id": settings.RELEASE_ID,
            "version": settings.VERSION,
            "pid": record.process,
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        if data := getattr(record, "data", None):
            line["data"] = data
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
