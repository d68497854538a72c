"""Retention on a host: what a kept restore point needs stays, and the clock does not say which point is the newest."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _application, _runtime
from ansible_collections.backstay.ops.plugins.module_utils._layout import Layout
from ansible_collections.backstay.ops.plugins.module_utils._storage import canonical
from ansible_collections.backstay.ops.plugins.module_utils._transaction import Request

from .host import DECLARED, NAME, CrashEngine, Payloads, Quick, conduct, declare, engine_on, live_for_a_while, play


class Life:
    """A host that releases 1.2.0 again and again after 1.0.0 and 1.1.0."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(NAME, directory / "host")
        self.payloads = Payloads(directory / "payloads")
        declare(self.layout)
        self.engine: CrashEngine = engine_on(self.layout, Quick())[0]

    def release(self, version: str, operation: str = "release") -> str:
        payload = self.payloads.send(version, self.layout)
        request = Request("release", by="tests", version=version, payload=payload, again=True)
        return conduct(self.engine, request, operation=operation).candidate

    def there(self) -> list[str]:
        """The releases whose files, configuration and units are there: all three or none of them."""
        layout = self.layout
        files = sorted(path.name for path in layout.releases.iterdir())
        assert files == sorted(path.name for path in (layout.configuration / "releases").iterdir())
        for release in files:
            assert (layout.units / layout.unit(release, "web")).exists()
        return files

    def declared(self, **policy: int) -> None:
        data = {**DECLARED, "releases": {**DECLARED["releases"], **policy}}
        application = _application.from_dict(data, file="portal.yml")
        self.layout.application_file.write_bytes(canonical(_application.to_dict(application)))


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    return Life(tmp_path)


def test_two_good_releases_stay_and_whatever_a_kept_restore_point_needs(life: Life) -> None:
    life.release("1.0.0")
    needed = life.release("1.1.0")
    first = life.release("1.2.0", "maintenance")
    assert life.there() == [needed, first]
    second, third = life.release("1.2.0"), life.release("1.2.0")
    assert life.there() == [needed, second, third], "the release that its restore point needs must stay"
    life.declared(keep_restore_points=1)
    fourth = life.release("1.2.0", "maintenance")
    assert life.there() == [third, fourth], "its restore point went, and nothing needs it any more"


def test_a_release_stays_as_long_as_the_data_that_it_left_with(life: Life) -> None:
    life.release("1.0.0")
    left = life.release("1.1.0")
    live_for_a_while(life.layout)
    back = conduct(life.engine, Request("restore", by="tests", point="latest", with_release=True)).candidate
    life.release("1.2.0")
    third, fourth = life.release("1.2.0"), life.release("1.2.0")
    assert life.there() == [left, third, fourth]
    assert back == "0001-1.0.0"
    shutil.rmtree(life.layout.generation("0001"))
    fifth = life.release("1.2.0")
    assert life.there() == [fourth, fifth], "its data went, and nobody can undo that restore any more"


def test_a_clock_ten_minutes_back_does_not_make_the_newest_restore_point_the_oldest(life: Life) -> None:
    life.release("1.0.0")
    life.release("1.1.0")
    life.declared(keep_restore_points=1)
    life.engine.now = lambda: "2026-11-21T12:10:00.000Z"
    life.release("1.2.0", "maintenance")
    life.engine.now = lambda: "2026-11-21T12:00:00.000Z"
    life.release("1.2.0", "maintenance")
    points = [path.name for path in life.layout.restore_points.iterdir()]
    assert [name[:13] for name in points] == ["20261121T1200"], "the one just made is the one that is kept"


def test_a_payload_that_was_sent_for_the_release_that_comes_next_stays_and_what_nobody_came_for_goes(
    life: Life,
) -> None:
    life.release("1.0.0")
    forgotten, coming = "a" * 64, "b" * 64
    for letters in (forgotten, coming):
        for ending in ("tar", "tar.partial", "attestation.json", "attestation.json.sig"):
            (life.layout.artifacts / f"{letters}.{ending}").write_bytes(b"of no release")
    for path in life.layout.artifacts.glob(f"{forgotten}.*"):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    life.release("1.1.0")
    assert len(list(life.layout.artifacts.glob(f"{coming}.*"))) == 4
    assert not list(life.layout.artifacts.glob(f"{forgotten}.*"))


def test_without_the_warm_release_there_is_one_again_when_the_release_is_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room was made by the release before the last; the one just left answers at once when it is gone back to."""
    play(monkeypatch, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(_runtime, "Storage", Quick)
    layout, payloads = Layout(NAME, tmp_path / "host"), Payloads(tmp_path / "payloads")
    declare(layout)
    engine, host = engine_on(layout, Quick())
    made = []
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        payload = payloads.send(version, layout)
        request = Request("release", by="tests", version=version, payload=payload, keep_warm=version != "1.2.0")
        made.append(conduct(engine, request).candidate)
    web = {unit for unit in host.running if unit.endswith("-web.service")}
    assert web == {engine.web_unit(release) for release in made[1:]}
