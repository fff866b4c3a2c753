from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ArtifactError, StageError
from pipeline.records import artifact


def write(folder: Path) -> None:
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"one")
    (folder / "sub" / "b.bin").write_bytes(b"two")


def test_hashes_and_digest_are_those_of_sha256sum(tmp_path: Path) -> None:
    write(tmp_path / "m")
    files = artifact.hash_files(tmp_path / "m")
    assert [(f.path, f.size_bytes, f.sha256) for f in files] == [
        ("a.bin", 3, hashlib.sha256(b"one").hexdigest()),
        ("sub/b.bin", 3, hashlib.sha256(b"two").hexdigest()),
    ]
    listing = "".join(f"{f.sha256}  {f.path}\n" for f in files).encode()
    assert artifact.digest(files[::-1]) == hashlib.sha256(listing).hexdigest()


def test_verify_names_what_is_missing_added_and_changed(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write(folder)
    files = artifact.hash_files(folder)
    artifact.verify(folder, files)
    (folder / "a.bin").write_bytes(b"0ne")
    (folder / "sub" / "b.bin").unlink()
    (folder / "new").write_bytes(b"")
    with pytest.raises(ArtifactError) as error:
        artifact.verify(folder, files)
    for words in ("sub/b.bin: missing", "new: not in the manifest", "a.bin: 3 bytes"):
        assert words in str(error.value)


def test_a_missing_folder_is_not_an_artifact(tmp_path: Path) -> None:
    write(tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"a\.bin: missing"):
        artifact.verify(tmp_path / "elsewhere", artifact.hash_files(tmp_path / "m"))


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "m")
    (tmp_path / "m" / "link").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="leaves its folder"):
        artifact.hash_files(tmp_path / "m")


def test_stage_folder_is_exclusive_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        artifact.stage_folder("quantize@a-1.2--b") as folder,
        artifact.stage_folder("quantize@a-1.3--b"),
    ):
        assert folder.is_dir()  # a dot in the name does not make two stages one
    with artifact.stage_folder("quantize@a--b") as folder:
        (folder / "left").write_text("over")
        with (
            pytest.raises(StageError, match="another run"),
            artifact.stage_folder("quantize@a--b", wait_s=0),
        ):
            raise AssertionError("two runs of one stage")
        folder_of_killed_run = folder
    assert not folder_of_killed_run.exists()
    folder_of_killed_run.mkdir()
    (folder_of_killed_run / "left").write_text("over")
    with artifact.stage_folder("quantize@a--b") as folder:
        assert list(folder.iterdir()) == []


def test_install_replaces_what_stood_there(tmp_path: Path) -> None:
    write(tmp_path / "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "c").write_bytes(b"3")
    artifact.install(tmp_path / "new", tmp_path / "old")
    assert [f.path for f in artifact.hash_files(tmp_path / "old")] == ["c"]


def test_what_cannot_be_listed_or_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a verifier who is not root: a file could lie there that an engine, run by somebody
    else, loads."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    write(Path("m"))
    Path("m/sub").chmod(0o311)
    Path("m").chmod(0o755)
    with somebody(), pytest.raises(ArtifactError, match="m/sub: cannot be listed"):
        artifact.hash_files(Path("m"))
    Path("m/sub").chmod(0o755)
    Path("m/sub/b.bin").chmod(0o000)
    with somebody(), pytest.raises(ArtifactError, match=r"b\.bin: cannot be read"):
        artifact.hash_files(Path("m"))


@contextlib.contextmanager
def somebody() -> Iterator[None]:
    """Root may read all; whoever else runs the tests is somebody already."""
    was = os.geteuid()
    try:
        if was == 0:
            os.seteuid(65534)
        yield
    finally:
        if was == 0:
            os.seteuid(0)
