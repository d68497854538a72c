"""`make demo`: the whole story on real hosts, with visitors all the time, and a table at the end.

Exit code 0 when every promise held, 1 when one was broken. The lab is left running; `make demo-down` removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from backstay_lab.errors import LabError
from backstay_lab.layout import CHECKOUT
from backstay_lab.load_result import LoadResult
from backstay_lab.scene import APPLICATION, Scene

RESULT = CHECKOUT / ".lab" / "demo.json"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(text: str, code: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


class Story:
    """The steps with their times, told as they happen; what was promised and did not hold is collected."""

    def __init__(self) -> None:
        self.scene = Scene("demo")
        self.began = time.monotonic()
        self.times: dict[str, float] = {}
        self.broken: list[str] = []

    def step(self, title: str, action: Callable[[], Any]) -> Any:
        print(f"  {title:<58}", end="", flush=True)
        began = time.monotonic()
        try:
            found = action()
        except BaseException:
            print(paint("failed", "31"), flush=True)
            raise
        seconds = time.monotonic() - began
        self.times[title] = round(seconds, 2)
        print(f"{seconds:7.1f} s   {paint(str(self.scene_live()), '36')}", flush=True)
        return found

    def scene_live(self) -> str:
        try:
            return self.scene.live() or ""
        except (LabError, ValueError, KeyError):
            return ""

    def expect(self, held: bool, sentence: str) -> None:
        if not held:
            self.broken.append(sentence)

    def expect_live(self, version: str, after: str) -> None:
        live = str(self.scene.live())
        self.expect(live.endswith(f"-{version}"), f"After {after} release {live} is live, and {version} was expected.")

    def refuse(self, version: str) -> str:
        """Try a version whose health check fails: the sentence of the gate that refused it, "" where none did."""
        played = self.scene.release(version, check=False)
        self.expect(not played.ok, f"The broken {version} was released.")
        lines = [line.strip() for line in played.output.splitlines()]
        sentence = next((line for line in lines if f"-{version} is not well: " in line), "")
        if not played.ok:
            self.expect(
                bool(sentence), f"The gate did not refuse {version}; its release failed: {played.last_lines(3)}"
            )
        return sentence


def up() -> int:
    """Play the whole story. Returns the exit code."""
    RESULT.unlink(missing_ok=True)  # a run that dies must not leave what the one before it said
    story = Story()
    scene = story.scene
    print(paint("Backstay demo", "1"), "- real Debian 13 hosts, real visitors\n", flush=True)
    story.step("boot an application host and a build host", scene.prepare)
    story.step("provision them over SSH (site.yml)", lambda: scene.play("site"))
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        story.step(f"build {version} (tests, checks, payload)", partial(scene.build, version))
    story.step("release 1.0.0", lambda: scene.release("1.0.0", again=True, why="demo"))
    story.step("seed 10,000 audits", lambda: scene.manage("seed", "--audits", "10000"))
    story.expect_live("1.0.0", "the first release")

    print("\n  visitors arrive: readers and writers, kept connections and new ones, slow reports\n", flush=True)
    releases: list[float] = []
    rollbacks: list[float] = []

    def released(version: str | None = None, **extra: Any) -> None:
        releases.append(scene.release(version, **extra).seconds)

    def rolled_back() -> None:
        rollbacks.append(scene.rollback(why="demo").seconds)

    with scene.load() as load:
        time.sleep(5.0)
        story.step("release 1.1.0, with a migration", lambda: released("1.1.0", why="demo"))
        story.expect_live("1.1.0", "the release of 1.1.0")
        time.sleep(3.0)
        story.step("roll back", rolled_back)
        story.expect_live("1.0.0", "the rollback")
        time.sleep(3.0)
        story.step("release 1.1.0 again", lambda: released("1.1.0", why="demo"))
        scene.declare(environment={"values": {"PORTAL_BANNER": f"Configured at {time.strftime('%H:%M:%S')}"}})
        story.step("change its configuration", lambda: released(why="a new banner"))
        story.expect_live("1.1.0", "the configuration release")
        refused = story.step("try 1.2.0, whose health check fails", lambda: story.refuse("1.2.0"))
        story.expect_live("1.1.0", "the refusal of 1.2.0")
        story.step("roll back once more", rolled_back)
        story.expect_live("1.1.0", "the last rollback")
        time.sleep(5.0)
        result = load.stop()
    lost = scene.missing_writes([write.token for write in result.writes])
    story.expect(result.failed == 0, f"{result.failed} of {result.requests} requests failed.")
    story.expect(not lost, f"{len(lost)} of {len(result.writes)} acknowledged writes are missing.")
    told = report(story, result, releases, rollbacks, lost)
    show(story, result, told, refused)
    return 1 if story.broken else 0


def report(
    story: Story, result: LoadResult, releases: list[float], rollbacks: list[float], lost: list[str]
) -> dict[str, Any]:
    """What `.lab/demo.json` says; times in seconds."""
    scene = story.scene
    live = scene.status()["live"]
    told = {
        "url": scene.url() + "/",
        "ca": str(scene.ca),
        "version": live["version"],
        "release": live["id"],
        "requests": result.requests,
        "failed": result.failed,
        "failures": list(result.failures),
        "closed_keepalive": result.closed_keepalive,
        "longest_gap_seconds": round(result.longest_gap_seconds, 4),
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "by_release": result.by_release,
        "acknowledged_writes": len(result.writes),
        "lost_writes": len(lost),
        "release_seconds": [round(seconds, 2) for seconds in releases],
        "rollback_seconds": [round(seconds, 2) for seconds in rollbacks],
        "steps": story.times,
        "seconds": round(time.monotonic() - story.began, 1),
        "broken_promises": story.broken,
    }
    RESULT.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return told


def show(story: Story, result: LoadResult, told: dict[str, Any], refused: str) -> None:
    """The table a person reads."""
    rows = [
        ("releases", ", ".join(f"{seconds:.1f} s" for seconds in told["release_seconds"])),
        ("rollbacks", ", ".join(f"{seconds:.1f} s" for seconds in told["rollback_seconds"])),
        ("requests", f"{result.requests} in {result.seconds:.0f} s"),
        ("failed", str(result.failed)),
        ("kept connections closed under a client", str(result.closed_keepalive)),
        ("longest gap between two successes", f"{result.longest_gap_seconds * 1000:.0f} ms"),
        ("p50 / p99", f"{result.p50_ms:.0f} ms / {result.p99_ms:.0f} ms"),
        ("writes acknowledged / lost", f"{len(result.writes)} / {told['lost_writes']}"),
        *(
            (f"answered by {'nginx itself (assets)' if name == '-' else name}", str(count))
            for name, count in sorted(result.by_release.items())
        ),
        ("refused", refused[:110]),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        good = "32" if name in ("failed", "kept connections closed under a client") and value == "0" else "0"
        print(f"  {name:<{width}}   {paint(value, good)}")
    for failure in list(result.failures)[:5]:
        print(paint(f"  failed: {failure}", "31"))
    print()
    for sentence in story.broken:
        print(paint(f"  promise broken: {sentence}", "31"))
    if not story.broken:
        print(paint("  every promise held", "32"))
    print(f"\n  {APPLICATION} runs at {paint(told['url'], '1;4')}  (trust {told['ca']})")
    print(f"  the same as JSON: {RESULT}\n  make demo-down removes it all\n")


def down() -> None:
    """Remove what `up` made. What all labs of this checkout share (payloads, the example's repository) stays."""
    scene = Scene("demo")
    scene.remove()
    shutil.rmtree(scene.directory / "certificates", ignore_errors=True)  # site.yml's, with their private keys
    with suppress(OSError):
        scene.directory.rmdir()  # unless somebody else put something there
    RESULT.unlink(missing_ok=True)


def main() -> int:
    verb = sys.argv[1] if len(sys.argv) > 1 else "up"
    try:
        if verb == "down":
            down()
            print("The demo's hosts and network are gone.")
            return 0
        return up()
    except LabError as failed:
        print(f"\ndemo: {failed}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
