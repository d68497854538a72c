"""What has to be true of a portal that was just released."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from smoke.client import Answer, Target


class Unmet(Exception):
    """A check failed; the message says what was expected and what was seen."""


@dataclass(frozen=True)
class Result:
    name: str
    status: str  # pass, fail, or none: there was nothing to look at
    detail: str
    seconds: float


@dataclass
class Visit:
    """One round of checks: the release that must answer, and what was learnt on the way."""

    target: Target
    release_id: str = ""
    version: str = ""
    seen: set[str] = field(default_factory=set)
    portal: str = ""

    def page(self, path: str, *needles: str, status: int = 200) -> Answer:
        """GET a page; it must have that status, name its release and contain the needles."""
        answer = self.target.get(path)
        if answer.status != status:
            where = f" (to {answer.headers['location']})" if "location" in answer.headers else ""
            raise Unmet(f"{path} answered {answer.status}{where}, expected {status}")
        for needle in needles:
            if needle not in answer.text:
                raise Unmet(f"{path} does not contain {needle!r}")
        released = answer.headers.get("x-release-id", "")
        self.seen.add(released)
        if self.release_id and released != self.release_id:
            raise Unmet(f"{path} was answered by release {released!r}, expected {self.release_id!r}")
        return answer

    def file(self, path: str, kind: str) -> str:
        """GET a static or media file through the front door."""
        answer = self.target.get(path)
        found = answer.headers.get("content-type", "")
        if answer.status != 200 or not answer.body or not found.startswith(kind):
            raise Unmet(
                f"{path} answered {answer.status}, {len(answer.body)} bytes of {found!r}; expected {kind}"
            )
        return f"{path}, {len(answer.body)} bytes"


def live(visit: Visit) -> str:
    visit.page("/livez/", '"pass"')
    return "the process answers"


def health(visit: Visit) -> str:
    status = json.loads(visit.page("/healthz/").body)["status"]
    if status not in {"pass", "warn"}:
        raise Unmet(f"/healthz/ says {status!r}")
    return f"/healthz/ says {status}"


def portal(visit: Visit) -> str:
    needles = ["Lift audits", "Audits on file"]
    if visit.version:
        needles.append(f"<b>{visit.version}</b>")
    visit.portal = visit.page("/", *needles).text
    return f"{len(visit.portal)} characters"


def audit(visit: Visit) -> str:
    found = re.search(r'href="(/audits/\d+/)"', visit.portal)
    if found is None:
        return ""
    visit.page(found[1], "Findings")
    visit.page(f"{found[1]}findings/new/", "csrfmiddlewaretoken")
    return f"{found[1]} and its form"


def search(visit: Visit) -> str:
    visit.page("/audits/?q=nothing-is-called-this", "No audit matches")
    return "the search answers"


def admin(visit: Visit) -> str:
    visit.page("/admin/login/", "Audit portal", "csrfmiddlewaretoken")
    return "the administration asks for a login"


def lost(visit: Visit) -> str:
    visit.page("/there/is/no/such/page/", "This floor does not exist", status=404)
    return "an unknown page is 404"


def guarded(visit: Visit) -> str:
    answer = visit.target.get("/metrics")
    if not visit.target.unix and answer.status != 404:
        return f"/metrics answered {answer.status}: this address is a declared one"
    if answer.status != 404:
        raise Unmet(f"/metrics answered {answer.status} without being asked from a declared address")
    return "/metrics is hidden"


def static(visit: Visit) -> str:
    found = re.search(r'href="(/static/[^"]+\.css)"', visit.portal)
    if found is None:
        raise Unmet("the portal page links to no style sheet")
    if not re.search(r"\.[0-9a-f]{12}\.css$", found[1]):
        raise Unmet(f"{found[1]} has no hash in its name")
    return found[1] if visit.target.unix else visit.file(found[1], "text/css")


def media(visit: Visit) -> str:
    found = re.search(r'src="(/media/[^"]+)"', visit.portal)
    if found is None:
        return ""
    return found[1] if visit.target.unix else visit.file(found[1], "image/")


def one_release(visit: Visit) -> str:
    if visit.seen - {""} == set():
        raise Unmet("no answer named its release (X-Release-Id)")
    if len(visit.seen) > 1:
        raise Unmet(f"several releases answered: {', '.join(sorted(map(repr, visit.seen)))}")
    return f"all answers came from {visit.seen.copy().pop()}"


CHECKS: list[Callable[[Visit], str]] = [
    live,
    health,
    portal,
    audit,
    search,
    admin,
    lost,
    guarded,
    static,
    media,
    one_release,
]


def run(visit: Visit) -> list[Result]:
    results = []
    for check in CHECKS:
        started = time.monotonic()
        try:
            detail = check(visit)
            status = "pass" if detail else "none"
        except Unmet as unmet:
            status, detail = "fail", str(unmet)
        except (OSError, ValueError, KeyError) as error:
            status, detail = "fail", f"{type(error).__name__}: {error}"
        name = check.__name__.replace("_", " ")
        results.append(
            Result(
                name, status, detail or "there is nothing to look at", round(time.monotonic() - started, 4)
            )
        )
    return results


def report(visit: Visit, results: list[Result]) -> dict[str, object]:
    failed = [result for result in results if result.status == "fail"]
    return {
        "status": "fail" if failed else "pass",
        "target": visit.target.unix or visit.target.base,
        "host": visit.target.host,
        "release_ids": sorted(visit.seen),
        "failed": len(failed),
        "checks": [asdict(result) for result in results],
    }
