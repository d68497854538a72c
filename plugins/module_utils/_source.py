"""Export an application's source on the controller: from a tag, a branch, a commit, or a plain directory.

Git decides what belongs to a source: what is committed, or, in a plain directory that git knows, what it does not
ignore. The export is only the way to the build host; the payload's bytes are made there.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ._errors import InputError
from ._run import Completed, Runner, run

_FETCH_SECONDS = 600.0


@dataclass(frozen=True)
class Revision:
    """What will be exported. `commit` is empty for a plain directory; `source_time` is seconds since 1970."""

    commit: str
    source_time: int
    what: str  # for people: "tag v1.1.0"
    repository: Path  # on this machine
    path: str  # the directory inside it


@contextmanager
def revision(repository: str, *, ref: str, tag: bool, path: str = ".", runner: Runner = run) -> Iterator[Revision]:
    """Find a tag, or a branch or commit, in a repository; one at a URL is fetched into a temporary one.

    Raises InputError when it is not there.
    """
    what = f"{'tag' if tag else 'revision'} {ref}"
    wanted = f"refs/tags/{ref}" if tag else ref
    with TemporaryDirectory(prefix="backstay-source-") as temporary:
        if Path(repository).exists():
            here, name = Path(repository), wanted
        elif ":" in repository:
            here, name = Path(temporary), "FETCH_HEAD"
            _git(here, "init", "--quiet", "--bare", runner=runner)
            fetched = _git(here, "fetch", "--quiet", "--depth=1", "--", repository, wanted, runner=runner, check=False)
            if not fetched.ok:
                raise InputError(f"{repository} gave no {what}: {_last(fetched)}.", lines=fetched.last_lines())
        else:
            raise InputError(
                f"There is no repository {repository}: correct source.repository in the application's file."
            )
        found = _git(
            here,
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            f"{name}^{{commit}}",
            runner=runner,
            check=False,
        )
        if not found.ok:
            remedy = f"tag its commit (git tag {ref})" if tag else "correct -e ref="
            reason = f" ({_last(found)})" if found.stderr.strip() else ""
            raise InputError(f"The repository {repository} has no {what}{reason}: {remedy}, then build again.")
        commit = found.stdout.strip()
        time = _git(here, "show", "--no-patch", "--format=%ct", commit, runner=runner).stdout.strip()
        yield Revision(commit, int(time), what, here, path)


def export(found: Revision, archive: Path, *, runner: Runner = run) -> None:
    """Write a revision's directory as a tar."""
    tree = found.commit if found.path == "." else f"{found.commit}:{found.path}"
    made = _git(found.repository, "archive", "--format=tar", f"--output={archive}", tree, runner=runner, check=False)
    if not made.ok:
        raise InputError(
            f"{found.what} of {found.repository} could not be exported from {found.path!r} ({_last(made)}): "
            "correct source.path in the application's file."
        )


def export_directory(directory: Path, archive: Path, *, runner: Runner = run) -> int:
    """Write a plain directory as a tar; the time of its newest file, in seconds since 1970.

    Where git knows the directory, ignored files stay out. Raises InputError when there is nothing to export.
    """
    if not directory.is_dir():
        raise InputError(f"There is no directory {directory}: correct -e source_directory=.")
    listed = _git(directory, "ls-files", "-z", "--cached", "--others", "--exclude-standard", runner=runner, check=False)
    names = listed.stdout.split("\0") if listed.ok else _walk(directory)
    newest = 0
    with tarfile.open(archive, mode="w", format=tarfile.GNU_FORMAT) as opened:
        for name in sorted({name for name in names if name}):
            path = directory / name
            if not os.path.lexists(path) or stat.S_ISDIR(path.lstat().st_mode):
                continue  # deleted and not yet committed; or a submodule
            newest = max(newest, int(path.lstat().st_mtime))
            opened.add(path, name, recursive=False)
    if not newest:
        raise InputError(f"The directory {directory} holds no files: correct -e source_directory=.")
    return newest


def _walk(directory: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        found += [str((Path(folder) / name).relative_to(directory)) for name in (*files, *links)]
    return found


def _git(repository: Path, *arguments: str, runner: Runner, check: bool = True) -> Completed:
    """Git, which may ask for nothing, and is not misled by the variables of a hook that called us."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    return runner(
        ["git", "-C", str(repository), *arguments],
        timeout_seconds=_FETCH_SECONDS,
        environment=environment,
        check=check,
    )


def _last(done: Completed) -> str:
    lines = done.last_lines(1)
    return lines[0].rstrip(".") if lines else f"exit code {done.returncode}"
