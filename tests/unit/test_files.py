"""Files and folders appear whole or not at all, whatever interrupts the writing."""

import errno
import os

import pytest

from egem.core.errors import ConfigError, EgemError, unknown_name
from egem.core.files import new_folder, write_atomically


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_atomically(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EgemError, match=r"no space left while writing .*config\.json; free some"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path):
    target = tmp_path / "records"

    def fail_half_way():
        with new_folder(target) as folder:
            (folder / "half").write_text("x")
            assert not target.exists()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with new_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "whole").write_text("x")
    assert (target / "deep" / "whole").read_text() == "x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["records"]


def test_who_may_read_a_folder_may_read_its_files(tmp_path):
    with new_folder(tmp_path / "model") as folder:
        (folder / "part").mkdir()
        weights = folder / "part" / "weights"
        weights.touch(mode=0o600)  # as safetensors writes them
    (tmp_path / "other").touch()
    written = tmp_path / "model" / "part" / "weights"
    assert written.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_with_content_is_never_overwritten(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="exists already; choose another folder"), new_folder(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "x"


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(EgemError, match=r"config.json cannot be written: Not a directory \(.*/file/run\)"):
        write_atomically(file / "run" / "config.json", b"x")
    with (
        pytest.raises(EgemError, match=r"run cannot be written: File exists \(.*/file\)"),
        new_folder(file / "run"),
    ):
        pass
    with pytest.raises(EgemError, match=r"cannot be written: Is a directory \(.*\); choose another path"):
        write_atomically(tmp_path, b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_forbidden_folder_is_named(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", forbidden)
    with (
        pytest.raises(EgemError, match=r"cannot be written: Permission denied"),
        new_folder(tmp_path / "records"),
    ):
        pass


def test_unknown_names_come_with_the_nearest_known_one():
    error = unknown_name("recipe", "tiney", ["tiny", "gem-2b"])
    assert str(error) == "unknown recipe 'tiney'. Did you mean 'tiny'? Known: gem-2b, tiny."
    assert "Did you mean" not in str(unknown_name("recipe", "zzzz", ["tiny"]))
