"""Real recordings that are not in the repository: `EGEM_REAL_DATA` names the folder that holds them."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("EGEM_REAL_DATA", ""))
BRIDGE = ROOT / "octo-bridge-debug" / "bridge_dataset" / "1.0.0"

needs_real_data = pytest.mark.skipif(
    Path() == ROOT, reason="EGEM_REAL_DATA names no folder of real recordings"
)
