"""The table of sources. A new one is a file with a function `rows` and a line here."""

from egem.data_engine.sources import llava, rgbd
from egem.data_engine.sources.source import ImportOptions, Row, Source

_ALL = (
    Source(
        name="rgbd",
        description="colour + depth + intrinsics: a manifest (.json, .jsonl) or a folder color/, depth/",
        rows=rgbd.rows,
    ),
    Source(
        name="llava",
        description="LLaVA-style JSON or JSONL with images or videos, and an optional depth folder",
        rows=llava.rows,
    ),
    Source(
        name="gem-250k",
        description="the released GEM-250K: LLaVA-style rows with depth/ beside them",
        rows=llava.gem_250k_rows,
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
"""Name to source."""

__all__ = ["SOURCES", "ImportOptions", "Row", "Source"]
