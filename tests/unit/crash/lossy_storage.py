"""A disk that forgets at a power cut what was not synced: POSIX durability as a model beneath the library's `Storage`.

What the running process sees is a real directory. Beside it the model keeps, for every file and directory, what is
on the disk and what is only on its way there:

- data of a file is durable after its fsync; before, any prefix of it may survive, also one torn in the middle of a
  line, and so may blocks that were allocated and never written (zeros), alone or before a tail that was;
- a name (create, rename, unlink, symlink, mkdir) is durable after an fsync of its directory, whatever became of the
  data behind it; before, it survives or not, and a later one may survive without an earlier one;
- an fsync of a directory says nothing about the name of that directory in its parent;
- syncfs makes durable what is on that mount; /etc, /opt and /var are mounts of their own, and /run is memory.

Whatever is written past the storage (shutil, pathlib, a command) is found by looking at the directory before each
primitive: it is unsynced until something syncs it, and `outside` lists it, so that it can be judged.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.backstay.ops.plugins.module_utils._storage import Storage

# A survivor: path below the root -> None (a directory), text (a link's target) or bytes (a file).
Tree = dict[str, "bytes | str | None"]
Signature = tuple[int, int, int]


@dataclass(eq=False)
class Node:
    """A file, a link or a directory, whatever its names are."""

    kind: str  # file, link, directory
    now: bytes = b""
    durable: bytes = b""  # the same as `now` unless data is on its way
    target: str = ""
    entries: dict[str, Node] = field(default_factory=dict)
    durable_entries: dict[str, Node] = field(default_factory=dict)
    mount: str = ""
    signature: Signature | None = None

    def remains(self, *, every_byte: bool) -> list[bytes]:
        """Every content that a power cut may leave: nothing of what is on its way, all of it, and what lies between."""
        return list(dict.fromkeys(self._remains(every_byte=every_byte)))

    def _remains(self, *, every_byte: bool) -> Iterator[bytes]:
        yield self.durable
        yield self.now
        if self.durable.startswith(self.now):
            return  # it was cut: a size is the old one or the new one
        # What grew keeps its beginning; what was replaced in place may be empty before it is new.
        base = self.durable if self.now.startswith(self.durable) else b""
        added = self.now[len(base) :]
        yield base
        for cut in range(1, len(added)) if every_byte else (1, len(added) // 2, len(added) - 1):
            if 0 < cut < len(added):
                yield base + added[:cut]
        yield base + bytes(len(added))
        if len(added) > 2:
            half = len(added) // 2
            yield base + bytes(half) + added[half:]
            yield base + added[:half] + bytes(len(added) - half)


@dataclass(frozen=True)
class Change:
    """One change of names on its way to the disk, atomic unless one of its directories is synced alone."""

    parts: tuple[tuple[Node, str, Node | None], ...]


@dataclass(frozen=True)
class Outside:
    """Something that was written without the storage, seen at the next primitive."""

    context: str
    what: str
    path: str


class LossyStorage(Storage):
    """The library's storage over `root`, which tells `at` of every moment at which the power might fail.

    `at(label)` is called after every single effect, before the next; it asks `survivors()` for what may remain.
    """

    def __init__(self, root: Path, at: Callable[[str], None] = lambda label: None) -> None:
        self.root = root
        self.at = at
        self.every_byte = False  # torn at every byte, not only at the telling ones
        self._temporary = 0
        self.context = ""  # what the caller is doing, for labels
        self.points = 0
        self.outside: list[Outside] = []
        self._pending: list[Change] = []
        self._top = self._node_of(root, "")
        self._settle(self._top)

    # the model

    def _node_of(self, path: Path, mount: str) -> Node:
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            return Node("link", target=str(path.readlink()), mount=mount)
        if stat.S_ISDIR(info.st_mode):
            node = Node("directory", mount=mount)
            for entry in os.scandir(path):
                node.entries[entry.name] = self._node_of(Path(entry.path), mount or entry.name)
            return node
        return Node("file", now=path.read_bytes(), mount=mount, signature=_signature(info))

    def _settle(self, node: Node, mount: str | None = None) -> None:
        """All of a node's data is on the disk; with its names, where it is a directory."""
        if mount is not None and node.mount not in ("", mount):
            return
        node.durable = node.now
        if node.kind == "directory":
            node.durable_entries = dict(node.entries)
            for child in node.entries.values():
                self._settle(child, mount)

    def _find(self, path: Path) -> Node:
        """The node of a name, which may itself be a link; links on the way to it are followed."""
        node = self._top
        parts = path.relative_to(self.root).parts
        for index, part in enumerate(parts):
            if part not in node.entries:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            node = node.entries[part]
            if node.kind == "link" and index < len(parts) - 1:
                return self._find(path.parent.resolve() / path.name)
        return node

    def _change(self, *parts: tuple[Node, str, Node | None]) -> None:
        for directory, name, node in parts:
            if node is None:
                directory.entries.pop(name, None)
            else:
                directory.entries[name] = node
        self._pending.append(Change(parts))

    def _look(self, *, crash: bool = True) -> None:
        """Find what was written past the storage since the last look."""
        seen = len(self.outside)
        self._compare(self.root, self._top)
        if crash and len(self.outside) > seen:
            self._point("written past the storage")

    def _lost(self, path: Path, node: Node, here: dict[str, os.DirEntry[str]]) -> list[str]:
        """The names that are gone from a directory. A file that is there under another one was renamed: what of its
        content is on the disk stays there."""
        gone = {node.entries[name].signature or name: name for name in node.entries if name not in here}
        for name, entry in here.items():
            old = gone.get(_signature(entry.stat(follow_symlinks=False))) if name not in node.entries else None
            if old is not None:
                self._noted("renamed to", Path(entry.path))
                self._change((node, name, node.entries[old]), (node, old, None))
        return [name for name in node.entries if name not in here]

    def _compare(self, path: Path, node: Node) -> None:
        here = {entry.name: entry for entry in os.scandir(path)}
        for name in self._lost(path, node, here):
            self._noted("removed", path / name)
            self._change((node, name, None))
        for name, entry in here.items():
            known = node.entries.get(name)
            info = entry.stat(follow_symlinks=False)
            kind = "link" if entry.is_symlink() else "directory" if entry.is_dir() else "file"
            same = known is not None and known.kind == kind
            if same and kind == "link":
                same = known is not None and known.target == str(Path(entry.path).readlink())
            if not same:
                fresh = Node(kind, mount=node.mount or name)
                if kind == "link":
                    fresh.target = str(Path(entry.path).readlink())
                self._noted(f"made a {kind}", Path(entry.path))
                self._change((node, name, fresh))
                known = fresh
            if known is None:
                raise AssertionError("a name without a node")
            if kind == "directory":
                self._compare(Path(entry.path), known)
            elif kind == "file" and known.signature != _signature(info):
                if same:
                    self._noted("wrote into", Path(entry.path))
                known.now = Path(entry.path).read_bytes()
                known.signature = _signature(info)

    def _noted(self, what: str, path: Path) -> None:
        self.outside.append(Outside(self.context, what, str(path.relative_to(self.root))))

    def _point(self, label: str) -> None:
        self.points += 1
        self.at(f"{self.context}: {label}")

    def _known(self, path: Path) -> Node:
        node = self._find(path)
        if node.kind == "file":
            node.signature = _signature(os.lstat(path))
        return node

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    # the primitives of the storage, one effect after the other

    def _beside(self, path: Path) -> Path:
        """As the library names it, without chance: a run can be repeated."""
        self._temporary += 1
        return path.with_name(f".{path.name}.{self._temporary:08x}.new")

    def _create(self, path: Path, content: bytes, mode: int) -> None:
        self._look()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        parent = self._find(path.parent)
        self._change((parent, path.name, Node("file", mount=parent.mount)))
        with os.fdopen(descriptor, "wb") as file:
            self._known(path)
            self._point(f"created {self._name(path)}")
            file.write(content)
        node = self._known(path)
        node.now = content
        self._point(f"filled {self._name(path)}")
        node.durable = node.now
        self._point(f"synced {self._name(path)}")

    def _append(self, path: Path, content: bytes, mode: int) -> None:
        self._look()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        parent = self._find(path.parent)
        if path.name not in parent.entries:
            self._change((parent, path.name, Node("file", mount=parent.mount)))
            self._point(f"created {self._name(path)}")
        with os.fdopen(descriptor, "ab") as file:
            file.write(content)
        node = self._known(path)
        node.now += content
        self._point(f"appended to {self._name(path)}")
        node.durable = node.now
        self._point(f"synced {self._name(path)}")

    def _rename(self, source: Path, target: Path) -> None:
        self._look()
        source.rename(target)
        node = self._find(source)
        self._change((self._find(target.parent), target.name, node), (self._find(source.parent), source.name, None))
        self._point(f"renamed to {self._name(target)}")

    def _symlink(self, path: Path, target: str) -> None:
        self._look()
        path.symlink_to(target)
        parent = self._find(path.parent)
        self._change((parent, path.name, Node("link", target=target, mount=parent.mount)))
        self._point(f"linked {self._name(path)}")

    def _unlink(self, path: Path) -> None:
        self._look()
        path.unlink()
        self._change((self._find(path.parent), path.name, None))
        self._point(f"unlinked {self._name(path)}")

    def _truncate(self, path: Path, size_bytes: int) -> None:
        self._look()
        os.truncate(path, size_bytes)
        node = self._known(path)
        node.now = node.now[:size_bytes]
        self._point(f"cut {self._name(path)}")
        node.durable = node.now
        self._point(f"synced {self._name(path)}")

    def _sync_file(self, path: Path) -> None:
        self._look()
        node = self._known(path)
        node.durable = node.now
        self._point(f"synced {self._name(path)}")

    def _make_directory(self, path: Path, mode: int) -> None:
        self._look()
        path.mkdir(mode)
        parent = self._find(path.parent)
        self._change((parent, path.name, Node("directory", mount=parent.mount)))
        self._point(f"made {self._name(path)}")

    def _sync_directory(self, path: Path) -> None:
        self._look()
        self._sync_names(self._find(path))
        self._point(f"synced the names in {self._name(path)}")

    def _sync_names(self, directory: Node) -> None:
        directory.durable_entries = dict(directory.entries)
        left = []
        for change in self._pending:
            parts = tuple(part for part in change.parts if part[0] is not directory)
            if parts:
                left.append(Change(parts))
        self._pending = left

    def sync_tree(self, path: Path) -> None:
        self._look()
        self._point(f"before the sync of the mount of {self._name(path)}")
        mount = self._find(path).mount
        self._settle(self._top, mount)
        for directory in {id(part[0]): part[0] for change in self._pending for part in change.parts}.values():
            if directory.mount == mount:
                self._sync_names(directory)
        self._point(f"synced the mount of {self._name(path)}")

    # syncs past the storage

    def fsynced(self, descriptor: int) -> None:
        """Somebody called fsync(2) by themselves."""
        self._look()
        wanted = os.fstat(descriptor)
        if stat.S_ISDIR(wanted.st_mode):
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self._sync_names(self._find(path))
            self._point(f"synced the names in {self._name(path)} past the storage")
            return
        for node in self._unsynced():
            if node.signature is not None and node.signature[0] == wanted.st_ino:
                node.durable = node.now
        self._point("synced a file past the storage")

    def synced_elsewhere(self, path: Path) -> None:
        """A program that sees to its own durability, such as a database with a log of its own, has written a file."""
        self._look(crash=False)
        node = self._find(path)
        node.durable = node.now
        self._sync_names(self._find(path.parent))
        self._point(f"another program wrote {self._name(path)}")

    def on_its_way(self, path: Path) -> list[str]:
        """What of a tree, its names included, a power cut could still take or tear."""
        found = []

        def walk(prefix: str, node: Node) -> None:
            if node.durable != node.now or node.durable_entries != node.entries:
                found.append(prefix)
            for name, child in node.entries.items():
                walk(f"{prefix}/{name}", child)

        top = self._find(path)
        if self._find(path.parent).durable_entries.get(path.name) is not top:
            found.append(self._name(path))
        walk(self._name(path), top)
        return found

    # what a power cut leaves

    def survivors(self, *, thorough: bool) -> Iterator[Tree]:
        """What may be found after a power cut now; the first is what is durable, the second all that was written."""
        dirty = [node for node in self._unsynced() if node.durable != node.now]
        contents = [node.remains(every_byte=self.every_byte) for node in dirty]
        most = max((len(choice) for choice in contents), default=1)
        for kept in self._kept(thorough=thorough):
            for variant in range(most):
                # All unsynced files in one manner at a time: with the other names still in flight that is what matters.
                chosen = {
                    id(node): choice[min(variant, len(choice) - 1)]
                    for node, choice in zip(dirty, contents, strict=True)
                }
                yield self._tree(kept, chosen)

    def _unsynced(self) -> list[Node]:
        """Files that live or may live again, each once."""
        seen: dict[int, Node] = {}

        def walk(node: Node) -> None:
            if id(node) in seen:
                return
            seen[id(node)] = node
            for child in (*node.entries.values(), *node.durable_entries.values()):
                walk(child)

        walk(self._top)
        for change in self._pending:
            for _directory, _name, node in change.parts:
                if node is not None:
                    walk(node)
        return [node for node in seen.values() if node.kind == "file"]

    def _kept(self, *, thorough: bool) -> Iterator[tuple[Change, ...]]:
        """Which changes of names survive: every prefix, and each alone, each lost alone; all subsets of a few."""
        pending = self._pending
        count = len(pending)
        if count <= (4 if thorough else 2):
            for number in range(1 << count):
                yield tuple(change for index, change in enumerate(pending) if number >> index & 1)
            return
        step = 1 if thorough else max(1, count // 3)
        for size in range(0, count + 1, step):
            yield tuple(pending[:size])
        yield tuple(pending)
        for index in range(0, count, step):
            yield (pending[index],)
            yield tuple(pending[:index] + pending[index + 1 :])

    def _tree(self, kept: tuple[Change, ...], contents: dict[int, bytes]) -> Tree:
        names: dict[int, dict[str, Node]] = {}
        for change in kept:
            for directory, name, node in change.parts:
                entries = names.setdefault(id(directory), dict(directory.durable_entries))
                if node is None:
                    entries.pop(name, None)
                else:
                    entries[name] = node
        found: Tree = {}

        def walk(prefix: str, directory: Node) -> None:
            for name, node in names.get(id(directory), directory.durable_entries).items():
                path = f"{prefix}{name}"
                if node.kind == "directory":
                    found[path] = None
                    if path != "run":  # memory
                        walk(f"{path}/", node)
                elif node.kind == "link":
                    found[path] = node.target
                else:
                    found[path] = contents.get(id(node), node.now)

        walk("", self._top)
        return found


def _signature(info: os.stat_result) -> Signature:
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def lay(tree: Tree, root: Path) -> Path:
    """Put a survivor where a host can boot from it."""
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    for path, content in tree.items():
        where = root / path
        if content is None:
            where.mkdir()
        elif isinstance(content, str):
            where.symlink_to(content)
        else:
            where.write_bytes(content)
    return root


def fingerprint(tree: Tree) -> int:
    return hash(frozenset(tree.items()))
