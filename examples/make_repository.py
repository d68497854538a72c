#!/usr/bin/env python3
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make a git repository of the audit portal with a tag for each of its versions.

    python3 examples/make_repository.py TARGET_DIR

`audit_portal/` is version 1.0.0; each later version is a patch in `audit_portal_versions/` on an earlier one. The
same sources always give the same commits, so that a demo, a test and a colleague speak of the same ones. A target
that is up to date is left as it is; one that this tool did not make is never touched.

To change a version: make the repository, change its files, and write the difference back, for instance
`git diff v1.1.0 > audit_portal_versions/1.2.0.patch`. A new file has to be added first (`git add -N`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PORTAL = HERE / "audit_portal"
PATCHES = HERE / "audit_portal_versions"
STAMP = "backstay-example.json"  # within .git: what the repository was made from
EXECUTABLE = ("manage.py",)
SETTINGS = ("core.autocrlf=false", "core.fileMode=false", "core.quotePath=true", "gc.auto=0")


@dataclass(frozen=True)
class Version:
    number: str
    base: str  # the version its patch applies to; empty for the first
    date: str
    why: str
    branch: str

    @property
    def tag(self) -> str:
        return f"v{self.number}"


VERSIONS = (
    Version("1.0.0", "", "2026-09-01T09:00:00+00:00", "Audits of lifts, their findings and photographs", ""),
    Version("1.1.0", "1.0.0", "2026-09-22T09:00:00+00:00", "Show how risky an audited lift is", "main"),
    Version("1.2.0", "1.1.0", "2026-10-06T09:00:00+00:00", "Watch the directory of the exports", "exports"),
    Version("1.3.0", "1.1.0", "2026-10-13T09:00:00+00:00", "Trace every request", "tracing"),
    Version("1.4.0", "1.1.0", "2026-10-20T09:00:00+00:00", "Leave manufacturers to the register", "register"),
    Version("1.5.0", "1.1.0", "2026-10-27T09:00:00+00:00", "Talk about audits, and forget in time", "messages"),
    Version("1.6.0", "1.1.0", "2026-11-03T09:00:00+00:00", "Give findings a priority", "priority"),
)


class RepositoryError(Exception):
    """The repository could not be made; one sentence says why and what to do."""


@dataclass(frozen=True)
class Git:
    """Git in one repository, deaf to the configuration of whoever calls."""

    directory: Path  # the work tree, .git within

    def __call__(self, *arguments: str, date: str = "", work_tree: Path | None = None) -> str:
        """Run one command, in another work tree if asked, and return what it printed."""
        tree = work_tree or self.directory
        settings = [part for setting in SETTINGS for part in ("-c", setting)]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        who = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in AUTHOR.items()}
        when = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
        deaf = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C", "TZ": "UTC"}
        where = {"GIT_DIR": str(self.directory / ".git"), "GIT_WORK_TREE": str(tree)}
        done = subprocess.run(
            ["git", *settings, *arguments],
            env=inherited | deaf | where | who | when,
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RepositoryError(f"git {arguments[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()


AUTHOR = {"NAME": "Audit Portal", "EMAIL": "portal@example.org"}


def digest(listing: str) -> str:
    """Digest of all the repository is made from: the portal's files (as git lists them), patches, this tool."""
    hashed = hashlib.sha256(listing.encode())
    for path in (Path(__file__), *sorted(PATCHES.glob("*.patch"))):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


def add_portal(git: Git) -> str:
    """Put the portal's own files (what its .gitignore leaves) into the index; return git's listing of them."""
    git("add", "--all", ".", work_tree=PORTAL)
    for name in EXECUTABLE:
        git("update-index", "--chmod=+x", name, work_tree=PORTAL)
    return git("ls-files", "--stage")


def commit(git: Git, version: Version, parents: list[str]) -> str:
    """Commit the index as this version, tag it, and return the commit."""
    tree = git("write-tree")
    parent = [part for one in parents for part in ("-p", one)]
    found = git("commit-tree", tree, *parent, "-m", f"{version.number}: {version.why}", date=version.date)
    git("tag", "--annotate", version.tag, found, "-m", f"Audit portal {version.number}", date=version.date)
    if version.branch:
        git("update-ref", f"refs/heads/{version.branch}", found)
    return found


def make_versions(git: Git) -> dict[str, str]:
    """Commit and tag every version, the index holding the first; return the commit of each tag."""
    commits: dict[str, str] = {}
    for version in VERSIONS:
        if version.base:
            git("read-tree", commits[version.base])
            patch = PATCHES / f"{version.number}.patch"
            try:
                git("apply", "--cached", "--whitespace=nowarn", str(patch))
            except RepositoryError as error:
                raise RepositoryError(
                    f"{patch.name} does not apply to version {version.base}, which has changed since: make the"
                    f" change again and renew the patch (see the top of make_repository.py). {error}"
                ) from error
        commits[version.number] = commit(git, version, [commits[version.base]] if version.base else [])
    return {f"v{number}": found for number, found in commits.items()}


def made_from(target: Path) -> dict[str, object] | None:
    """Return the stamp of a repository this tool made, or None where there is nothing yet."""
    stamp = target / ".git" / STAMP
    if stamp.is_file():
        found: dict[str, object] = json.loads(stamp.read_text(encoding="utf-8"))
        return found
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RepositoryError(f"{target} exists and was not made by this tool: name another directory, or remove it.")
    return None


def make_repository(target: Path) -> dict[str, object]:
    """Make `target` the repository of all versions, or leave it when it is that already.

    Returns {"path": str, "changed": bool, "tags": {tag: commit}}. Raises RepositoryError.
    """
    target = target.absolute()
    before = made_from(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        git = Git(made)
        git("init", "--quiet", "--template=", "--object-format=sha1", "--initial-branch=main")
        source = digest(add_portal(git))
        if before is not None and before.get("source") == source:
            return {"path": str(target), "changed": False, "tags": before["tags"]}
        tags = make_versions(git)
        git("reset", "--quiet", "--hard", "main")
        (made / ".git" / STAMP).write_text(json.dumps({"source": source, "tags": tags}), encoding="utf-8")
        if target.exists():
            shutil.move(target, Path(scratch) / "before")
        made.rename(target)
    return {"path": str(target), "changed": True, "tags": tags}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, metavar="TARGET_DIR", help="the repository to make")
    given = parser.parse_args(arguments)
    try:
        answer = make_repository(given.target)
    except (RepositoryError, OSError) as error:
        sys.stderr.write(f"make_repository: {error}\n")
        return 1
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
