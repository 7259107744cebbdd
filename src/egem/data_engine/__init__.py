"""Scenes and public sources to records: skills that ask, sources that import, statistics that check."""

from egem.data_engine.ask import ask
from egem.data_engine.build import build, write_records
from egem.data_engine.importing import import_source
from egem.data_engine.skills import SKILLS
from egem.data_engine.sources import SOURCES, ImportOptions
from egem.data_engine.statistics import statistics, table
from egem.data_engine.symbolic import question_corpus

__all__ = [
    "SKILLS",
    "SOURCES",
    "ImportOptions",
    "ask",
    "build",
    "import_source",
    "question_corpus",
    "statistics",
    "table",
    "write_records",
]
