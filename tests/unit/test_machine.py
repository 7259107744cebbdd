"""Which code ran: the commit of this checkout, never another's."""

import subprocess

from egem.core import machine


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_this_checkout_s_and_says_when_files_differ(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    clean = machine.commit()
    assert clean is not None
    assert clean.isalnum()
    (tmp_path / "code.py").write_text("2")
    assert machine.commit() == f"{clean}+dirty"
    installed = tmp_path / ".venv/lib/python3.11"
    installed.mkdir(parents=True)
    monkeypatch.setattr(machine, "_ROOT", installed)
    assert machine.commit() is None, "the commit of whose repository holds the environment"


def test_there_is_no_commit_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.commit() is None
