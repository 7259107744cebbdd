"""`egem data ...`: make, import, count and look at records."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from egem.cli import annotate as annotators
from egem.cli.options import parse
from egem.core.errors import ConfigError, unknown_name
from egem.data_engine.engine import EngineConfig
from egem.data_engine.generate import GenerateConfig
from egem.data_engine.sources.source import ImportOptions
from egem.recipes.render import RenderConfig


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """Records from the embedded simulated world, or its worlds as 3D scenes."""

    out: Path | None = None
    """Folder of records to write; it must not exist yet."""
    scenes: Path | None = None
    """Instead of records: folder of 3D scenes to write, one of each of `--num` worlds, for `egem data generate`."""
    config: OmitArgPrefixes[RenderConfig] = field(default_factory=RenderConfig)


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Records from one data source."""

    input: Path
    """The source's file or folder."""
    out: Path
    """Folder to write; it must not exist yet."""
    config: OmitArgPrefixes[ImportOptions] = field(default_factory=ImportOptions)
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """Questions from 3D scenes, of VSI-Bench's kinds; what is ambiguous is refused, and the refusals are counted."""

    scenes: Path
    """Folder of 3D scenes: this project's own (room.json), ScanNet, ScanNet++ or ARKitScenes."""
    out: Path
    """Folder to write; it must not exist yet."""
    config: OmitArgPrefixes[GenerateConfig] = field(default_factory=GenerateConfig)
    engine: OmitArgPrefixes[EngineConfig] = field(default_factory=EngineConfig)


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """Counts, answer balance and what guessing without the image scores."""

    folder: Positional[Path]
    """A folder of records."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """A page to look at a record set: image, depth, what is asked drawn on it, question, answer."""

    folder: Positional[Path]
    """A folder of records."""
    out: Path | None = None
    """The page; FOLDER.html otherwise."""
    num: int = 200
    """Questions to show, evenly spread."""
    sources: tuple[str, ...] = ()
    """Show only these; all if empty."""
    skills: tuple[str, ...] = ()
    """Show only these; all if empty."""


def render(arguments: list[str]) -> None:
    """Draw views of the embedded world and ask about them."""
    options = parse(RenderOptions, "data render", arguments)
    from egem.recipes.render import render as run
    from egem.recipes.tabletop_rooms import export_config

    if (options.out is None) == (options.scenes is None):
        raise ConfigError("give the folder to write: --out for records, or --scenes for 3D scenes, not both.")
    if options.scenes is not None:
        export_config(options.config, options.scenes)
        print(f"{options.config.num} 3D scenes in {options.scenes}")
        return
    assert options.out is not None
    manifest = run(options.config, options.out)
    print(f"{manifest.rows} records of {manifest.groups} views in {options.out}")


def import_(arguments: list[str]) -> None:
    """Import a source."""
    from egem.data_engine import SOURCES, import_source

    if not arguments or arguments[0] in ("--help", "-h"):
        print("usage: egem data import SOURCE --input PATH --out FOLDER [options]\n")
        sources([])
        print("\n`egem data import SOURCE --help` shows the options.")
        return
    name, *rest = arguments
    if name not in SOURCES:
        raise unknown_name("source", name, SOURCES)
    options = parse(SourceOptions, f"data import {name}", rest)
    manifest = import_source(name, options.input, options.out, options.config, options.engine)
    print(f"{manifest.rows} records of {manifest.groups} groups in {options.out}")


def generate(arguments: list[str]) -> None:
    """Ask about 3D scenes, and say what was refused."""
    options = parse(GenerateOptions, "data generate", arguments)
    from egem.data_engine.generate import REFUSED
    from egem.data_engine.generate import generate as run

    result = run(options.scenes, options.out, options.config, options.engine)
    print(result.table())
    print(
        f"{result.manifest.rows} records of {result.rooms} scenes in {options.out}; refusals in {REFUSED} there"
    )
    if result.quarantine:
        print(f"{len(result.quarantine)} scenes could not be read; reasons in quarantine.jsonl there")


def sources(arguments: list[str]) -> None:
    """List the sources."""
    from egem.data_engine import SOURCES

    for name, source in SOURCES.items():
        print(f"  {name:<12} {', '.join(source.categories)}: {source.description}")
        print(f"{'':<15}licence: {source.licence}")
        print(f"{'':<15}holds:   {source.layout}")


def stats(arguments: list[str]) -> None:
    """Print the table."""
    options = parse(FolderOptions, "data stats", arguments)
    from egem.data_engine import statistics, table

    print(table(statistics(options.folder)))


def view(arguments: list[str]) -> None:
    """Write the contact sheet."""
    options = parse(ViewOptions, "data view", arguments)
    from egem.report.contact_sheet import write_contact_sheet

    out = options.out or options.folder.with_name(f"{options.folder.name}.html")
    write_contact_sheet(options.folder, out, num=options.num, sources=options.sources, skills=options.skills)
    print(f"page: {out}")


def convert(arguments: list[str]) -> None:
    """Write episodes as a LeRobot dataset."""
    from egem.recipes.convert import ConvertConfig
    from egem.recipes.convert import convert as run

    config = parse(ConvertConfig, "data convert", arguments)
    result = run(config)
    print(result.table())
    if result.left_out:
        print(f"what was left out, and why: {config.out / 'quarantine.jsonl'}")
    print(f"train a policy on it: egem train tiny-vla --data {config.out} --run RUN")


def annotate(arguments: list[str]) -> None:
    """Add annotations of one kind."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print("usage: egem data annotate KIND --data FOLDER [options]\n")
        for name, (_, line) in ANNOTATIONS.items():
            print(f"  {name:<12} {line}")
        print("\n`egem data annotate KIND --help` shows the options.")
        return
    name, *rest = arguments
    if name not in ANNOTATIONS:
        raise unknown_name("annotation", name, ANNOTATIONS)
    ANNOTATIONS[name][0](rest)


def _latents(arguments: list[str]) -> None:
    from egem.recipes.latents import LatentsConfig, annotate_latents

    config = parse(LatentsConfig, "data annotate latents", arguments)
    manifest = annotate_latents(config)
    maps = sum(shard.maps for shard in manifest.shards)
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    unreadable = sum(shard.unreadable for shard in manifest.shards)
    print(f"latents of {maps} depth maps in {config.data / 'latents' / manifest.recipe.key}")
    print(f"{num_bytes / 2**20:.1f} MiB; {unreadable} groups have depth that cannot be used")


ANNOTATIONS = {
    "depth": (
        annotators.depth,
        "depth of images that have none, with Depth Anything 3 or a model of transformers",
    ),
    "objects": (annotators.objects, "names of the manipulated thing and of what can be seen"),
    "masks": (
        annotators.masks,
        "masks, boxes and points of named things with SAM 3, and questions about them",
    ),
    "tracks": (annotators.tracks, "ways of those things through clips, with CoTracker3 or optical flow"),
    "latents": (_latents, "depth latents, so that training needs neither codec nor depth maps"),
}
"""Kind -> its function and its line in the help."""
