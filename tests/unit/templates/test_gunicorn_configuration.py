"""The configuration that releases start gunicorn with."""

from __future__ import annotations

import logging
import logging.config
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Render = Callable[..., str]


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """What dictConfig changes is undone, or every later test would log here."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name in ("gunicorn.error", "gunicorn.access"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)


def configuration(render: Render, tmp_path: Path, **variables: Any) -> dict[str, Any]:
    file = tmp_path / "gunicorn.conf.py"
    file.write_text(render("gunicorn", "gunicorn.conf.py.j2", **variables))
    return runpy.run_path(str(file))


def test_it_logs_to_the_journal_and_to_the_applications_directory(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKSTAY_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("BACKSTAY_LOG_LEVEL", "warning")
    monkeypatch.setenv("BACKSTAY_RELEASE_ID", "0007-1.1.0")
    logging.config.dictConfig(configuration(render, tmp_path)["logconfig_dict"])
    logger = logging.getLogger("gunicorn.error")
    logger.warning("a worker died")
    logger.info("too quiet to be told")
    line = (tmp_path / "gunicorn.log").read_text()
    assert "Z 0007-1.1.0 WARNING" in line
    assert line.endswith("a worker died\n")
    told = capsys.readouterr().err
    assert "a worker died" in told
    assert "too quiet" not in told + line


def test_a_log_that_was_moved_away_is_opened_again(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTAY_LOG_DIR", str(tmp_path))
    logging.config.dictConfig(configuration(render, tmp_path)["logconfig_dict"])
    logging.getLogger("gunicorn.error").error("before")
    (tmp_path / "gunicorn.log").rename(tmp_path / "gunicorn.log.1")
    logging.getLogger("gunicorn.error").error("after")
    assert (tmp_path / "gunicorn.log").read_text().endswith("after\n")


def test_without_a_directory_it_logs_to_the_journal_alone(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BACKSTAY_LOG_DIR", raising=False)
    assert list(configuration(render, tmp_path)["logconfig_dict"]["handlers"]) == ["journal"]


def test_the_socket_is_open_to_whoever_may_pass_its_directory(render: Render, tmp_path: Path) -> None:
    assert 0o777 & ~configuration(render, tmp_path)["umask"] == 0o666


@pytest.mark.parametrize(("requests", "jitter"), [(0, 0), (1000, 100)])
def test_workers_are_not_replaced_all_at_once(render: Render, tmp_path: Path, requests: int, jitter: int) -> None:
    configured = configuration(render, tmp_path, gunicorn_max_requests=requests)
    assert (configured["max_requests"], configured["max_requests_jitter"]) == (requests, jitter)
