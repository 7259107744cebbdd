"""`egem init`: a new checkpoint folder."""

from dataclasses import dataclass
from pathlib import Path

from egem.cli.options import parse
from egem.core.errors import unknown_name


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Write an untrained checkpoint of a preset: random weights in the real on-disk formats."""

    out: Path
    """Folder to write; it must not exist yet."""
    preset: str = "tiny"
    """Which sizes."""
    seed: int = 0
    """Of the random weights."""


def init(arguments: list[str]) -> None:
    """Build the preset and save it."""
    options = parse(InitOptions, "init", arguments)
    from egem.models.gem import parameter_report
    from egem.models.presets import PRESETS, build

    if options.preset not in PRESETS:
        raise unknown_name("preset", options.preset, PRESETS)
    model = build(options.preset, seed=options.seed)
    model.save_pretrained(options.out)
    counts = ", ".join(f"{name} {total:,}" for name, (total, _) in parameter_report(model).items())
    print(f"{options.out}: {options.preset}, random weights of seed {options.seed}; parameters: {counts}")
