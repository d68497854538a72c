"""The payload: deterministic, refused when a byte is wrong, and unable to reach outside its directory."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.backstay.ops.plugins.module_utils import _artifact as artifact
from ansible_collections.backstay.ops.plugins.module_utils._errors import BackstayError, InputError

TIME = 1_790_000_000
MANIFEST = artifact.Manifest(
    application="portal",
    version="1.0.0",
    commit="c" * 40,
    source_digest="d" * 64,
    source_time="2026-09-21T14:13:20Z",
    runtime="django",
    python="3.13",
    system="debian-13",
    architecture="x86_64",
    lock_sha256="e" * 64,
    notes="First.",
)
HERE = {"application": "portal", "system": "debian-13", "python": "3.13", "architecture": "x86_64"}
FILES = {
    "code/manage.py": b"print('hello')\n",
    "code/portal/__init__.py": b"",
    "static/staticfiles.json": b"{}",
    "static/css/portal.1234.css": b"body {}",
    "wheels/django-5.2-py3-none-any.whl": b"PK\x05\x06",
}


def tree_at(folder: Path, files: dict[str, bytes] | None = None, manifest: artifact.Manifest = MANIFEST) -> Path:
    for name, content in {**(FILES if files is None else files), "manifest.json": manifest.to_json()}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def payload(tmp_path: Path) -> artifact.Packed:
    tree = tree_at(tmp_path / "tree")
    (tree / "code/manage.py").chmod(0o700)
    (tree / "code/latest").symlink_to("portal/__init__.py")
    return artifact.pack(tree, tmp_path / "portal-1.0.0.tar", TIME)


def by_hand(path: Path, *members: tarfile.TarInfo, first: bool = True) -> Path:
    """A payload such as nobody's build would make it."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        if first:
            content = MANIFEST.to_json()
            head = tarfile.TarInfo("manifest.json")
            head.size = len(content)
            archive.addfile(head, io.BytesIO(content))
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return info


def test_same_tree_gives_same_bytes_whatever_time_order_mode_and_umask(tmp_path: Path) -> None:
    one = tree_at(tmp_path / "one")
    before = os.umask(0o077)
    try:
        two = tree_at(tmp_path / "two", dict(reversed(FILES.items())))
    finally:
        os.umask(before)
    os.utime(two / "code/manage.py", (1, 1))
    assert artifact.pack(one, tmp_path / "1.tar", TIME).sha256 == artifact.pack(two, tmp_path / "2.tar", TIME).sha256


def test_members_carry_the_time_of_the_source_no_owner_and_one_of_two_modes(payload: artifact.Packed) -> None:
    with tarfile.open(payload.path) as archive:
        members = archive.getmembers()
    assert members[0].name == "manifest.json"
    assert [m.name for m in members[1:]] == sorted(m.name for m in members[1:])
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(TIME, 0, 0, "", "")}
    assert {m.name: m.mode for m in members if m.isreg() and m.mode != 0o644} == {"code/manage.py": 0o755}


def test_tree_digest_ignores_times_and_sees_names_modes_and_contents(tmp_path: Path) -> None:
    one, two = tree_at(tmp_path / "one"), tree_at(tmp_path / "two")
    os.utime(two / "code/manage.py", (1, 1))
    assert artifact.tree_digest(one) == artifact.tree_digest(two)
    (two / "code/manage.py").chmod(0o755)
    changed = artifact.tree_digest(two)
    assert changed != artifact.tree_digest(one)
    (two / "code/manage.py").rename(two / "code/other.py")
    assert artifact.tree_digest(two) != changed


def test_a_verified_payload_unpacks_to_what_was_packed(payload: artifact.Packed, tmp_path: Path) -> None:
    assert artifact.verify(payload.path, sha256=payload.sha256, **HERE) == MANIFEST
    target = tmp_path / "release"
    target.mkdir()
    before = os.umask(0o077)
    try:
        assert artifact.unpack(payload.path, target) == MANIFEST
    finally:
        os.umask(before)
    found = {
        path.relative_to(target).as_posix(): oct(path.stat().st_mode & 0o7777)
        for path in target.rglob("*")
        if not path.is_symlink()
    }
    assert found == {
        "manifest.json": "0o644",
        "code": "0o755",
        "code/manage.py": "0o755",
        "code/portal": "0o755",
        "code/portal/__init__.py": "0o644",
        "static": "0o755",
        "static/staticfiles.json": "0o644",
        "static/css": "0o755",
        "static/css/portal.1234.css": "0o644",
    }
    assert (target / "code/latest").readlink() == Path("portal/__init__.py")
    assert (target / "static/css/portal.1234.css").read_bytes() == b"body {}"


def test_wheels_are_unpacked_apart(payload: artifact.Packed, tmp_path: Path) -> None:
    target = tmp_path / "wheels"
    target.mkdir()
    artifact.unpack_wheels(payload.path, target)
    assert [path.name for path in target.rglob("*.whl")] == ["django-5.2-py3-none-any.whl"]
    assert not (target / "code").exists()


def test_room_counts_whole_blocks_and_byte_code(payload: artifact.Packed, tmp_path: Path) -> None:
    size_bytes, inodes = artifact.unpacked_bytes(payload.path)
    target = tmp_path / "release"
    target.mkdir()
    artifact.unpack(payload.path, target)
    assert inodes >= sum(1 for _ in target.rglob("*")) + len(list(target.rglob("*.py")))
    assert size_bytes >= sum(path.lstat().st_size for path in target.rglob("*"))
    assert size_bytes % 4096 == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_wrong_byte_anywhere_is_refused(payload: artifact.Packed, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(payload.path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    broken = tmp_path / "broken.tar"
    broken.write_bytes(content)
    with pytest.raises(BackstayError, match="send it again"):
        artifact.verify(broken, sha256=payload.sha256, **HERE)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.integers(0, 10239))
def test_a_payload_cut_anywhere_is_said_to_be_cut_short(payload: artifact.Packed, tmp_path: Path, kept: int) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(payload.path.read_bytes()[:kept])
    with pytest.raises(BackstayError, match=r"(cut short|damaged).*send it again"):
        artifact.verify(broken, sha256=payload.sha256, **HERE)
    target = tmp_path / "release"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with pytest.raises(BackstayError, match="send it again"):
        artifact.unpack(broken, target)


def test_the_refusal_names_both_digests(payload: artifact.Packed) -> None:
    with pytest.raises(BackstayError) as refused:
        artifact.verify(payload.path, sha256="0" * 64, **HERE)
    assert refused.value.message == (
        f"The payload portal-1.0.0.tar is damaged: its digest is {payload.sha256[:16]}… "
        f"({payload.size_bytes} bytes) and 0000000000000000… was expected: send it again."
    )


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        ({"application": "shop"}, "is one of portal and shop was expected"),
        ({"system": "debian-12"}, "built for the operating system debian-13 and this host has debian-12"),
        ({"python": "3.11"}, "built for the Python 3.13 and this host has 3.11"),
        ({"architecture": "aarch64"}, "built for the architecture x86_64 and this host has aarch64"),
    ],
)
def test_a_payload_for_somebody_else_is_refused(payload: artifact.Packed, fact: dict[str, str], expected: str) -> None:
    with pytest.raises(BackstayError, match=expected):
        artifact.verify(payload.path, sha256=payload.sha256, **{**HERE, **fact})


def test_a_newer_format_asks_for_a_newer_command(tmp_path: Path) -> None:
    packed = artifact.pack(tree_at(tmp_path / "tree", manifest=replace(MANIFEST, format=2)), tmp_path / "p.tar", TIME)
    with pytest.raises(BackstayError, match=r"has format 2 and this backstay knows 1.*site.yml"):
        artifact.verify(packed.path, sha256=packed.sha256, **HERE)


def test_an_unknown_key_in_the_manifest_of_our_format_harms_nobody(tmp_path: Path) -> None:
    assert artifact.Manifest.from_json(MANIFEST.to_json()[:-2] + b', "later": 1}', origin="it") == MANIFEST


def test_no_payload_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="build it, or send it first"):
        artifact.verify(tmp_path / "missing.tar", sha256="0" * 64, **HERE)


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.tar"
    path.write_bytes(b"hello" * 4096)
    with pytest.raises(BackstayError, match="cannot be read"):
        artifact.read_manifest(path)


def test_a_payload_whose_manifest_is_not_first_is_refused(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "p.tar", member("code/a"), first=False)
    with pytest.raises(BackstayError, match=r"does not begin with manifest.json"):
        artifact.read_manifest(path)


EVIL = {
    "absolute": [member("/etc/passwd")],
    "parent": [member("code/../../etc/passwd")],
    "only parent": [member("..")],
    "dot": [member("code/./x")],
    "outside the layout": [member("etc/passwd")],
    "the part itself": [member("code")],
    "device": [member("code/null", tarfile.CHRTYPE)],
    "pipe": [member("code/pipe", tarfile.FIFOTYPE)],
    "hard link": [member("code/link", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link inside": [member("code/a"), member("code/link", tarfile.LNKTYPE, "code/a")],
    "link to an absolute path": [member("code/link", tarfile.SYMTYPE, "/etc")],
    "link outside": [member("code/link", tarfile.SYMTYPE, "../../etc")],
    "link out of its part": [member("code/link", tarfile.SYMTYPE, "../static/x")],
    "link to nothing at all": [member("code/link", tarfile.SYMTYPE, "")],
    "link out behind a link": [
        member("code/a/b/up", tarfile.SYMTYPE, "../.."),
        member("code/out", tarfile.SYMTYPE, "a/b/up/../.."),
    ],
    "file behind a link": [member("code/a", tarfile.SYMTYPE, "b"), member("code/a/x")],
    "file below a file": [member("code/a"), member("code/a/x")],
    "file in place of a directory": [member("code/a/x"), member("code/a")],
    "the same name twice": [member("code/a"), member("code/a")],
    "link in place of a file": [member("code/a"), member("code/a", tarfile.SYMTYPE, "b")],
    "manifest twice": [member("manifest.json")],
    "link as manifest": [member("manifest.json", tarfile.SYMTYPE, "code/a")],
}


@pytest.mark.parametrize("case", EVIL)
def test_nothing_reaches_outside_its_directory(tmp_path: Path, case: str) -> None:
    path = by_hand(tmp_path / "p.tar", *EVIL[case])
    target = tmp_path / "deep" / "release"
    target.mkdir(parents=True)
    with pytest.raises(BackstayError):
        artifact.unpack(path, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "p.tar"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["release"]


def test_what_no_payload_may_hold_is_refused_while_packing(tmp_path: Path) -> None:
    tree = tree_at(tmp_path / "tree")
    os.mkfifo(tree / "code/pipe")
    with pytest.raises(BackstayError, match="code/pipe is neither a file nor a link"):
        artifact.pack(tree, tmp_path / "p.tar", TIME)
    (tree / "code/pipe").unlink()
    (tree / "code/secrets").symlink_to("/etc/shadow")
    with pytest.raises(BackstayError, match=r"leads out of code/ to '/etc/shadow'"):
        artifact.pack(tree, tmp_path / "p.tar", TIME)
    assert not list(tmp_path.glob("*p.tar*")), "a refused payload left something behind"


def test_a_name_that_nobody_can_type_is_refused_while_packing(tmp_path: Path) -> None:
    tree = tree_at(tmp_path / "tree")
    (tree / "code/two\nlines.py").write_text("")
    with pytest.raises(BackstayError, match="not printable text"):
        artifact.pack(tree, tmp_path / "p.tar", TIME)


def test_an_export_is_unpacked_with_its_links_and_modes(tmp_path: Path) -> None:
    archive = tmp_path / "source.tar"
    with tarfile.open(archive, "w") as opened:
        folder = tarfile.TarInfo("portal")
        folder.type = tarfile.DIRTYPE
        script = member("portal/run.sh")
        script.mode = 0o775
        for info in (folder, script, member("current", tarfile.SYMTYPE, "portal")):
            opened.addfile(info, io.BytesIO(b"x"))
    target = tmp_path / "code"
    target.mkdir()
    artifact.unpack_source(archive, target)
    assert (target / "portal/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (target / "current").readlink() == Path("portal")


@pytest.mark.parametrize("case", ["absolute", "parent", "link outside", "device"])
def test_an_export_reaches_nothing_else_either(tmp_path: Path, case: str) -> None:
    archive = tmp_path / "source.tar"
    with tarfile.open(archive, "w") as opened:
        for evil in EVIL[case]:
            name = evil.name.removeprefix("code/")
            opened.addfile(member(name, evil.type, evil.linkname), io.BytesIO(b"x"))
    target = tmp_path / "deep" / "code"
    target.mkdir(parents=True)
    with pytest.raises(BackstayError):
        artifact.unpack_source(archive, target)
    assert not list(target.iterdir())


def test_host_facts_come_from_the_files_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="13"\n')
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to("python3.13")
    facts = artifact.host_facts(tmp_path)
    assert (facts.system, facts.python) == ("debian-13", "3.13")
    (tmp_path / "usr/bin/python3").unlink()
    with pytest.raises(BackstayError, match="install the package python3"):
        artifact.host_facts(tmp_path)
