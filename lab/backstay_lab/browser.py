"""A real browser that looks at a site: headless Chromium, spoken to over a pipe (the DevTools protocol).

No port is opened, nothing of the user's own browser is touched: profile, home and trusted authorities are of a
temporary directory. The only authority it trusts beside the system's is the lab's: the certificate is really checked.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .errors import LabError

# Wait for every image, also those below the fold; its natural width is 0 when it could not be shown.
_IMAGES = """
Promise.all([...document.images].map(async image => {
  image.loading = 'eager';
  try { await image.decode(); } catch (failed) { /* its width says so */ }
  return [image.currentSrc || image.src, image.naturalWidth];
}))
"""
_INTO_PLACE = (
    "import os, sys\nos.dup2(int(sys.argv[1]), 3)\nos.dup2(int(sys.argv[2]), 4)\nos.execvp(sys.argv[3], sys.argv[3:])\n"
)


@dataclass(frozen=True)
class Seen:
    """One page as the browser has shown it. `requests`: status by address; `problems`: what did not load, and why."""

    url: str
    status: int
    headers: Mapping[str, str]
    requests: Mapping[str, int]
    problems: tuple[str, ...]
    images: Mapping[str, int]


@dataclass
class _Traffic:
    """What was asked for while a page was loading."""

    urls: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    loaded: bool = False

    def note(self, method: str, said: Mapping[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.urls[said["requestId"]] = said["request"]["url"]
        elif method == "Network.responseReceived":
            answer = said["response"]
            self.status[answer["url"]] = answer["status"]
            self.headers[answer["url"]] = {name.lower(): value for name, value in answer["headers"].items()}
            if answer["status"] >= 400:
                self.problems.append(f"{answer['url']} answered {answer['status']}")
        elif method == "Network.loadingFailed":
            self.problems.append(f"{self.urls.get(said['requestId'], '?')} failed: {said['errorText']}")
        elif method == "Runtime.exceptionThrown":
            self.problems.append(f"a script broke: {said['exceptionDetails'].get('text')}")
        elif method == "Page.loadEventFired":
            self.loaded = True


class Browser:
    """One window. `names` maps the names of sites to the addresses where the lab serves them."""

    def __init__(self, *, ca: Path, names: Mapping[str, str], seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._home = Path(tempfile.mkdtemp(prefix="backstay-browser-"))
        self._buffer = b""
        self._number = 0
        self._traffic = _Traffic()
        try:
            self._trust(ca)
            self._start(names)
            target = self._say("Target.createTarget", url="about:blank")["targetId"]
            self._session = str(self._say("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
            for domain in ("Page", "Network", "Runtime"):
                self._say(f"{domain}.enable")
            self._say("Network.setCacheDisabled", cacheDisabled=True)
        except BaseException:
            self.close()
            raise

    def _trust(self, ca: Path) -> None:
        store = self._home / ".pki" / "nssdb"
        store.mkdir(parents=True)
        for arguments in (["-N", "--empty-password"], ["-A", "-n", "lab", "-t", "C,,", "-i", str(ca)]):
            done = subprocess.run(
                ["certutil", "-d", f"sql:{store}", *arguments], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise LabError(f"The browser could not be told to trust {ca}: {done.stderr.strip()}.")

    def _start(self, names: Mapping[str, str]) -> None:
        rules = ", ".join(f"MAP {name} {address}" for name, address in names.items())
        command = [
            "chromium", "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self._home / 'profile'}",
            f"--host-resolver-rules={rules}", "--window-size=1280,900", "--hide-scrollbars", "--disable-gpu",
            "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-extensions", "--no-first-run", "--no-proxy-server", "--metrics-recording-only",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium's sandbox does not work for root
        ]  # fmt: skip
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The protocol wants descriptors 3 and 4, which may be others' here: high numbers first, then into place.
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in (theirs_in, theirs_out)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _INTO_PLACE, *map(str, high), *command],
            pass_fds=high,
            env={**os.environ, "HOME": str(self._home), "XDG_CONFIG_HOME": str(self._home / "config")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (theirs_in, theirs_out, *high):
            os.close(descriptor)
        self._in, self._out = ours_in, ours_out
        self._session = ""

    # the protocol: one JSON object, ended by a zero byte

    def _say(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        try:
            os.write(self._out, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise LabError("The browser ended: does `chromium --headless` run here?") from None
        answer = self._read_until(lambda said: said.get("id") == number, f"an answer to {method}")
        if "error" in answer:
            raise LabError(f"The browser refused {method}: {answer['error'].get('message')}.")
        return dict(answer["result"])

    def _read_until(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + self._seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._in, selectors.EVENT_READ)
            while True:
                while b"\0" in self._buffer:
                    line, _, self._buffer = self._buffer.partition(b"\0")
                    said = json.loads(line)
                    self._traffic.note(said.get("method", ""), said.get("params", {}))
                    if wanted(said):
                        return dict(said)
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise LabError(f"The browser did not give {what} within {self._seconds:g} s.")
                read = os.read(self._in, 1 << 20)
                if not read:
                    raise LabError(f"The browser ended while {what} was awaited: does `chromium --headless` run here?")
                self._buffer += read

    # what a person does

    def open(self, url: str) -> Seen:
        """Go to a page and wait until it, its styles and its images are there. Raises LabError without an answer.

        Where other hosts of a lab come or go meanwhile, the browser gives up what it is loading, because the machine
        has another network then. That says nothing about the page, which is opened again.
        """
        seen = self._open(url)
        for _again in range(4):
            if any("ERR_NETWORK_CHANGED" in problem for problem in seen.problems):
                seen = self._open(url)
        return seen

    def _open(self, url: str) -> Seen:
        self._traffic = traffic = _Traffic()
        gone = self._say("Page.navigate", url=url)
        if "ERR_NETWORK_CHANGED" in gone.get("errorText", ""):
            gone = self._say("Page.navigate", url=url)
        if gone.get("errorText"):
            raise LabError(f"The browser could not open {url}: {gone['errorText']}.")
        if not traffic.loaded:
            self._read_until(lambda said: said.get("method") == "Page.loadEventFired", f"the whole page {url}")
        images = dict(self.ask(_IMAGES))
        here = str(self.ask("location.href"))
        return Seen(
            url=here,
            status=traffic.status.get(here, 0),
            headers=traffic.headers.get(here, {}),
            requests=dict(traffic.status),
            problems=tuple(traffic.problems),
            images=images,
        )

    def emulate(self, width: int, height: int, *, scheme: str = "light", media: str = "screen") -> None:
        """Show pages as a window of so many pixels does; `scheme` is light or dark, `media` screen or print."""
        phone = width < 700
        self._say("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        preferred = [{"name": "prefers-color-scheme", "value": scheme}]
        self._say("Emulation.setEmulatedMedia", media=media, features=preferred)

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        told = self._say("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise LabError(f"The page's script broke: {told['exceptionDetails'].get('text')}: {script[:80]}")
        return told["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """What the window shows, as a PNG."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self._say("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End it and remove what it kept."""
        process = getattr(self, "_process", None)
        if process is not None:
            for descriptor in (self._in, self._out):
                os.close(descriptor)
            try:
                process.wait(timeout=5)  # it ends when its pipe does
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
