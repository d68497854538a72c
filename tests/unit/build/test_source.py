"""The export on the controller: what git says belongs to a source, from wherever it is named."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from ansible_collections.backstay.ops.plugins.module_utils import _source as source
from ansible_collections.backstay.ops.plugins.module_utils._errors import InputError
from ansible_collections.backstay.ops.plugins.module_utils._run import run

IDENTITY = {
    "HOME": "/nonexistent",
    "PATH": os.environ["PATH"],
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_AUTHOR_DATE": "2026-09-01T00:00:00Z",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_COMMITTER_DATE": "2026-09-01T00:00:00Z",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit and one tag, and changes that nobody committed."""
    folder = tmp_path_factory.mktemp("made") / "repository"
    (folder / "site/portal").mkdir(parents=True)
    (folder / "site/VERSION").write_text("1.0.0\n")
    (folder / "site/portal/__init__.py").write_text("")
    (folder / ".gitignore").write_text("ignored\n")
    for arguments in (
        ["init", "--quiet", "-b", "main"],
        ["add", "-A"],
        ["commit", "--quiet", "-m", "First"],
        ["tag", "v1.0.0"],
    ):
        run(["git", "-C", str(folder), *arguments], environment=IDENTITY)
    (folder / "site/VERSION").write_text("uncommitted\n")
    (folder / "site/ignored").write_text("x")
    (folder / "site/untracked").write_text("x")
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Path:
    """A copy for each test: four starts of git take longer."""
    return Path(shutil.copytree(made, tmp_path / "repository"))


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as opened:
        return sorted(member.name for member in opened if not member.isdir())


def content(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as opened:
        found = opened.extractfile(name)
        assert found is not None
        return found.read()


def test_a_tag_is_exported_as_it_was_committed(repository: Path, tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    with source.revision(str(repository), ref="v1.0.0", tag=True, path="site") as found:
        source.export(found, archive)
        assert (len(found.commit), found.source_time, found.what) == (40, 1788220800, "tag v1.0.0")
    assert names(archive) == ["VERSION", "portal/__init__.py"]
    assert content(archive, "VERSION") == b"1.0.0\n"


@pytest.mark.parametrize("ref", ["main", "HEAD", "v1.0.0"])
def test_a_branch_and_a_commit_give_the_same_commit(repository: Path, ref: str) -> None:
    with source.revision(str(repository), ref="v1.0.0", tag=True) as tagged:
        pass
    for name in (ref, tagged.commit, tagged.commit[:10]):
        with source.revision(str(repository), ref=name, tag=False) as found:
            assert found.commit == tagged.commit


def test_a_repository_at_a_url_is_fetched(repository: Path, tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    with source.revision(f"file://{repository}", ref="v1.0.0", tag=True, path="site") as found:
        source.export(found, archive)
        fetched = found.repository
    assert content(archive, "VERSION") == b"1.0.0\n"
    assert not fetched.exists(), "the fetched repository was left behind"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_missing_tag_is_named_with_its_repository(repository: Path, scheme: str) -> None:
    with (
        pytest.raises(InputError, match=r"repository.*no tag v9.9.9"),
        source.revision(f"{scheme}{repository}", ref="v9.9.9", tag=True),
    ):
        pass


def test_a_tag_is_not_mistaken_for_a_branch_of_that_name(repository: Path) -> None:
    run(["git", "-C", str(repository), "branch", "v2.0.0"], environment=IDENTITY)
    with pytest.raises(InputError, match=r"git tag v2.0.0"), source.revision(str(repository), ref="v2.0.0", tag=True):
        pass


def test_a_ref_is_never_an_option(repository: Path) -> None:
    with (
        pytest.raises(InputError, match="no revision --output=/tmp/x"),
        source.revision(str(repository), ref="--output=/tmp/x", tag=False),
    ):
        pass


def test_a_missing_repository_names_the_key_to_correct(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"correct source.repository"),
        source.revision(str(tmp_path / "missing"), ref="v1.0.0", tag=True),
    ):
        pass


def test_a_missing_directory_inside_names_the_key_to_correct(repository: Path, tmp_path: Path) -> None:
    with (
        source.revision(str(repository), ref="main", tag=False, path="no/where") as found,
        pytest.raises(InputError, match=r"correct source.path"),
    ):
        source.export(found, tmp_path / "source.tar")


def test_a_directory_is_exported_as_it_is_without_what_git_ignores(repository: Path, tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    os.utime(repository / "site/untracked", (1_800_000_000, 1_800_000_000))
    newest = source.export_directory(repository / "site", archive)
    assert names(archive) == ["VERSION", "portal/__init__.py", "untracked"]
    assert content(archive, "VERSION") == b"uncommitted\n"
    assert newest >= 1_800_000_000


def test_a_directory_that_git_does_not_know_is_exported_whole(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    (folder / "portal/__pycache__").mkdir(parents=True)
    (folder / "portal/__pycache__/x.pyc").write_text("")
    (folder / "portal/x.py").write_text("")
    (folder / "current").symlink_to("portal")
    source.export_directory(folder, tmp_path / "source.tar")
    assert names(tmp_path / "source.tar") == ["current", "portal/x.py"]


def test_an_empty_or_missing_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(InputError, match=r"correct -e source_directory="):
            source.export_directory(tmp_path / name, tmp_path / "source.tar")
