"""The example's versions: every patch applies, and the same sources give the same commits."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
TAGS = ["v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0", "v1.4.0", "v1.5.0", "v1.6.0"]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_repository", path)
    assert spec is not None, f"{path} cannot be loaded"
    assert spec.loader is not None, f"{path} cannot be loaded"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = load(ROOT / "examples" / "make_repository.py")


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target: Path = tmp_path_factory.mktemp("example") / "portal"
    tool.make_repository(target)
    return target


def test_every_version_has_an_annotated_tag(repository: Path) -> None:
    assert git(repository, "tag", "--list").split() == TAGS
    for tag in TAGS:
        assert git(repository, "cat-file", "-t", tag) == "tag", f"{tag} is not annotated"


@pytest.mark.parametrize("tag", TAGS)
def test_every_version_names_itself_and_has_a_changelog_entry(repository: Path, tag: str) -> None:
    assert git(repository, "show", f"{tag}:VERSION") == tag[1:]
    newest = re.search(r"^## \[(.+)\] - 2026-\d\d-\d\d$", git(repository, "show", f"{tag}:CHANGELOG.md"), re.MULTILINE)
    assert newest is not None, f"{tag} has no entry"
    assert newest[1] == tag[1:]


def test_who_carries_a_migration(repository: Path) -> None:
    migrations = "audits/migrations"
    added = {
        tag: git(repository, "diff", "--name-only", "--diff-filter=A", f"{tag}~", tag, "--", migrations)
        for tag in TAGS[1:]
    }
    assert added == {
        "v1.1.0": f"{migrations}/0002_risk_and_follow_up.py",
        "v1.2.0": "",
        "v1.3.0": "",
        "v1.4.0": f"{migrations}/0003_drop_manufacturer.py",
        "v1.5.0": f"{migrations}/0003_messages.py",
        "v1.6.0": f"{migrations}/0003_priority.py",
    }


def test_no_version_changes_what_is_installed(repository: Path) -> None:
    """The everyday release has the same dependencies; a test of other ones makes its own."""
    locks = {tag: git(repository, "rev-parse", f"{tag}:requirements.lock") for tag in TAGS}
    assert len(set(locks.values())) == 1, locks


def test_the_first_version_is_the_directory(repository: Path) -> None:
    for name in git(repository, "ls-tree", "-r", "--name-only", "v1.0.0").splitlines():
        blob = git(repository, "rev-parse", f"v1.0.0:{name}")
        assert git(repository, "hash-object", str(tool.PORTAL / name)) == blob, name
    assert git(repository, "ls-tree", "v1.0.0", "manage.py").startswith("100755")


def test_the_same_sources_give_the_same_commits_whoever_makes_them(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gitconfig").write_text(
        "[core]\n\tautocrlf = true\n[commit]\n\tgpgsign = true\n[user]\n\tname = Eve\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Eve")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    again = tool.make_repository(tmp_path / "again")
    monkeypatch.delenv("GIT_DIR")
    assert again["tags"] == {tag: git(repository, "rev-parse", f"{tag}^{{commit}}") for tag in TAGS}
    for tag in TAGS:
        assert git(tmp_path / "again", "rev-parse", tag) == git(repository, "rev-parse", tag)


def test_a_repository_that_is_up_to_date_is_left_as_it_is(repository: Path) -> None:
    (repository / "note.txt").write_text("mine")
    assert tool.make_repository(repository)["changed"] is False
    assert (repository / "note.txt").read_text() == "mine"


def test_an_outdated_repository_is_made_anew(tmp_path: Path) -> None:
    target = tmp_path / "portal"
    tool.make_repository(target)
    (target / ".git" / tool.STAMP).write_text('{"source": "an older one", "tags": {}}')
    assert tool.make_repository(target)["changed"] is True
    assert git(target, "status", "--short") == ""
    assert list(tmp_path.iterdir()) == [target], "something was left beside it"


def test_a_directory_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("x")
    with pytest.raises(tool.RepositoryError, match="was not made by this tool"):
        tool.make_repository(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_patch_that_does_not_apply_is_named(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal = tmp_path / "portal"
    git(tmp_path, "clone", "--quiet", "--branch", "v1.0.0", str(repository), str(portal))
    shutil.rmtree(portal / ".git")
    (portal / "VERSION").write_text("0.9.0\n")
    monkeypatch.setattr(tool, "PORTAL", portal)
    with pytest.raises(tool.RepositoryError, match=r"^1\.1\.0\.patch does not apply to version 1\.0\.0"):
        tool.make_repository(tmp_path / "target")
    assert not (tmp_path / "target").exists()
