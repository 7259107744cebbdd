"""Which code ran, and how much memory it took: what stands beside every number."""

import resource
import subprocess
import sys
from pathlib import Path


def commit() -> str | None:
    """Of the checkout that runs; None for an installed package."""
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def peak_memory_gb() -> tuple[float, float]:
    """The most gigabytes that this process held so far, and the most that any of its ended helpers held."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    own, helper = (
        resource.getrusage(who).ru_maxrss * unit / 1e9
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own, helper
