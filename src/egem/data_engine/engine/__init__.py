"""Long work on many items, by processes of this machine or of a Ray cluster; docs/engine.md tells the story.

A step is a function from items (rows of a source, scenes, groups of records) to records. `run_job` cuts the items into
parts, lets an engine make a finished shard of each, and joins the shards. What a part becomes depends on its items
alone, so neither the engine, nor the number of workers, nor being killed in between changes a byte.
"""

from egem.data_engine.engine.config import EngineConfig, open_engine
from egem.data_engine.engine.job import Job, JobResult, run_job
from egem.data_engine.engine.parts import Item, Outcome

__all__ = ["EngineConfig", "Item", "Job", "JobResult", "Outcome", "open_engine", "run_job"]
