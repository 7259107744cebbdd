"""Which code ran, and how much memory it took: what stands beside every number."""

import resource
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def commit() -> str | None:
    """Of the checkout that runs, `+dirty` where files differ from it; None for an installed package or without git."""
    top = _git("rev-parse", "--show-toplevel")
    # An installed package may lie inside somebody else's repository.
    if top is None or Path(top).resolve() != _ROOT:
        return None
    name, changed = (
        _git("rev-parse", "--short", "HEAD"),
        _git("status", "--porcelain", "--untracked-files=no"),
    )
    return f"{name}+dirty" if name and changed else name


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory_gb() -> tuple[float, float]:
    """The most gigabytes that this process held so far, and the most that any of its ended helpers held."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    own, helper = (
        resource.getrusage(who).ru_maxrss * unit / 1e9
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own, helper
