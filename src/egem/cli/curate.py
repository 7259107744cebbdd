"""`egem data dedupe|leakage|filter|mix|export`: from folders of records to others."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import OmitArgPrefixes, Positional

from egem.cli.options import parse
from egem.core.errors import unknown_name
from egem.data_engine.curation.dedupe import DedupeConfig
from egem.data_engine.curation.filters import FilterConfig
from egem.data_engine.curation.hub_export import HubExportConfig
from egem.data_engine.curation.mixture import MixConfig
from egem.data_engine.engine import EngineConfig

if TYPE_CHECKING:
    from egem.evaluation.benchmarks import Benchmark
    from egem.records import Record


@dataclass(frozen=True, kw_only=True)
class DedupeOptions:
    """Leave out records that say the same about pictures that look the same; the first one stays."""

    folder: Positional[Path]
    """A folder of records."""
    out: Path
    """Folder to write; it must not exist yet."""
    config: OmitArgPrefixes[DedupeConfig] = field(default_factory=DedupeConfig)
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class LeakageOptions:
    """Find pictures of a training set that look like a benchmark's; exit code 1 if there are any and no --out."""

    folder: Positional[Path]
    """A folder of records."""
    benchmarks: tuple[str, ...]
    """As of `egem eval`: names, NAME=FOLDER for a copy on disk, records:FOLDER."""
    out: Path | None = None
    """Folder to write without the groups found; it must not exist yet."""
    report: Path | None = None
    """File for every match as JSON."""
    max_distance: int = 8
    """Bits of 64 in which the hashes of two pictures may differ; 0 to 16."""
    cache: Path = Path("runs/benchmarks")
    """Folder that rendered or converted benchmarks are kept in."""
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Leave out records that break a rule of quality; rejections are counted by rule."""

    folder: Positional[Path]
    """A folder of records."""
    out: Path
    """Folder to write; it must not exist yet."""
    config: OmitArgPrefixes[FilterConfig] = field(default_factory=FilterConfig)
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class MixOptions:
    """Mix folders of records by a recipe: exact counts or weights, drawn from a seed, with a card."""

    recipe: str
    """gem-4m, gem-250k, or a JSON file: {"name", "portions": [{"name", "category", "sources", "count"}, ...]}."""
    data: tuple[Path, ...]
    """Folders of records."""
    out: Path
    """Folder to write; it must not exist yet."""
    config: OmitArgPrefixes[MixConfig] = field(default_factory=MixConfig)
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """A folder of records for other software; `hf`: for the Hugging Face hub, its viewer and `datasets`."""

    folder: Positional[Path]
    """A folder of records."""
    out: Path
    """Folder to write; it must not exist yet."""
    to: str = "hf"
    """hf."""
    config: OmitArgPrefixes[HubExportConfig] = field(default_factory=HubExportConfig)
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)


def dedupe(arguments: list[str]) -> None:
    """Leave out duplicates."""
    options = parse(DedupeOptions, "data dedupe", arguments)
    from egem.data_engine.curation.dedupe import dedupe as run

    result = run(options.folder, options.out, options.config, options.engine)
    print(f"{result.manifest.rows} of {result.records} records in {options.out}; left out:")
    for source, count in result.removed.items():
        print(f"  {count:>8} {source}")
    if result.unreadable:
        print(
            f"{result.unreadable} pictures cannot be decoded; their groups were kept (see `egem data filter`)"
        )


def leakage(arguments: list[str]) -> None:
    """Find pictures that benchmarks show too."""
    options = parse(LeakageOptions, "data leakage", arguments)
    from egem.core.files import refuse_existing, write_atomically
    from egem.data_engine.curation.leakage import find_leakage, write_clean
    from egem.evaluation.benchmarks import BenchmarkOptions, open_benchmark

    if options.out is not None:
        refuse_existing(options.out)
    opened = [
        (name, open_benchmark(name, BenchmarkOptions(cache=options.cache))) for name in options.benchmarks
    ]
    found = find_leakage(
        options.folder,
        ((name, _heads(benchmark)) for name, benchmark in opened),
        max_distance=options.max_distance,
        engine=options.engine,
    )
    print(found.table())
    for match in found.matches[:10]:
        print(f"  {match.group}, image {match.picture}: {match.benchmark}, {match.item} ({match.bits} bits)")
    if options.report is not None:
        write_atomically(options.report, found.as_json())
        print(f"all matches: {options.report}")
    if options.out is not None:
        manifest = write_clean(
            options.folder, options.out, found, max_distance=options.max_distance, engine=options.engine
        )
        print(f"{manifest.rows} records without them in {options.out}")
    elif found.matches:
        raise SystemExit(1)


def filter_(arguments: list[str]) -> None:
    """Leave out what breaks a rule."""
    options = parse(FilterOptions, "data filter", arguments)
    from egem.data_engine.curation.filters import filter_records

    print(filter_records(options.folder, options.out, options.config, options.engine).table())


def mix(arguments: list[str]) -> None:
    """Mix folders."""
    options = parse(MixOptions, "data mix", arguments)
    from egem.data_engine.curation.mixture import mix as run
    from egem.data_engine.curation.mixture_card import CARD_MARKDOWN
    from egem.data_engine.curation.mixture_recipes import open_mixture

    result = run(open_mixture(options.recipe), options.data, options.out, options.config, options.engine)
    for share in result.shares:
        short = f", of {share.wanted} wanted" if share.taken < share.wanted else ""
        print(f"  {share.taken:>9} {share.portion.name} (of {share.available}{short})")
    print(f"{result.manifest.rows} records in {options.out}; the card: {options.out / CARD_MARKDOWN}")


def export(arguments: list[str]) -> None:
    """Write for other software."""
    options = parse(ExportOptions, "data export", arguments)
    from egem.data_engine.curation.hub_export import export_to_hub

    if options.to != "hf":
        raise unknown_name("format", options.to, ["hf"])
    facts = export_to_hub(options.folder, options.out, options.config, options.engine)
    records = sum(mine.records for mine in facts.values())
    print(f"{records} records of {len(facts)} sources in {options.out}")
    print(f"load:    datasets.load_dataset({str(options.out)!r})")
    print(f"publish: hf upload --repo-type dataset NAME {options.out}")


def _heads(benchmark: "Benchmark") -> "Iterator[Record]":
    """One record of each group of a benchmark, with its images."""
    last = None
    for question in benchmark.questions():
        if question.group != last:
            last = question.group
            yield benchmark.load(question)
