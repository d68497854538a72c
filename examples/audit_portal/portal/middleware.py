"""What surrounds every request: which release answers, and the probes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from portal import health, logs

Answer = Callable[[HttpRequest], HttpResponse]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_internal(request: HttpRequest) -> bool:
    """Whether nginx vouches for the address: it sets this header itself, over whatever a client sends."""
    return request.headers.get("X-Backstay-Internal") == "yes"


def release_context(request: HttpRequest) -> dict[str, str]:
    """What every page's frame shows."""
    return {"version": settings.VERSION, "release_id": settings.RELEASE_ID}


class ReleaseMiddleware:
    """Name the release on every answer, and the request in every line of the log."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-Id", "")
        token = logs.request_id.set(given if _REQUEST_ID.fullmatch(given) else "")
        try:
            response = self.get_response(request)
        finally:
            logs.request_id.reset(token)
        response["X-Release-Id"] = settings.RELEASE_ID
        if not response.streaming and not response.has_header("Content-Length"):
            response["Content-Length"] = str(len(response.content))
        return response


class HealthMiddleware:
    """Answer the probes before anything else looks at the request: whatever its Host, with or without TLS."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response
        self.probes = {"/livez/": self.livez, "/healthz/": self.healthz}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        probe = self.probes.get(request.path_info)
        if probe is not None and request.method in {"GET", "HEAD"}:
            return probe(request)
        if request.path_info == "/metrics" and is_internal(request):
            return HttpResponse(health.metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")
        return self.get_response(request)

    def livez(self, request: HttpRequest) -> HttpResponse:
        """The process answers. Nothing is asked of the database: restarting us would not cure it."""
        return self.answer(200, {"status": "pass", "releaseId": settings.RELEASE_ID})

    def healthz(self, request: HttpRequest) -> HttpResponse:
        return self.answer(*health.healthz(details=is_internal(request)))

    @staticmethod
    def answer(status: int, body: dict[str, object]) -> HttpResponse:
        return HttpResponse(
            json.dumps(body),
            status=status,
            content_type="application/health+json",
            headers={"Cache-Control": "no-store"},
        )
