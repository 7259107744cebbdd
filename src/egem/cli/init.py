"""`egem init`: a new checkpoint folder."""

from dataclasses import dataclass
from pathlib import Path

from egem.cli.options import parse
from egem.core.errors import ConfigError, unknown_name


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Write a checkpoint to start training from.

    Either random weights of a preset, or pre-trained parts in their Hugging Face layouts (each a folder or a
    hub id, owner/name or owner/name@revision) with a new connector between them.
    """

    out: Path
    """Folder to write; it must not exist yet."""
    preset: str | None = None
    """Random weights of these sizes; `tiny` if nothing else is given."""
    backbone: str | None = None
    """Qwen3-VL, dense: Qwen/Qwen3-VL-2B-Instruct, say."""
    depth_head: str | None = None
    """Sana pipeline with transformer/, or that folder: Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers, say."""
    codec: str | None = None
    """Pipeline with vae/ (an AutoencoderDC), or that folder; the depth head's pipeline if left out."""
    seed: int = 0
    """Of the random weights."""


def init(arguments: list[str]) -> None:
    """Build the preset, or put the parts together, and save."""
    options = parse(InitOptions, "init", arguments)
    parts = (options.backbone, options.depth_head, options.codec)
    if any(part is not None for part in parts):
        _from_parts(options)
    else:
        _from_preset(options)


def _from_preset(options: InitOptions) -> None:
    from egem.models.presets import PRESETS, build

    preset = "tiny" if options.preset is None else options.preset
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    model = build(preset, seed=options.seed)
    model.save_pretrained(options.out)
    print(f"{options.out}: {preset}, random weights of seed {options.seed}; parameters: {_counts(model)}")
    if "preprocessor_config.json" not in model.processor_files:
        print(
            "There is no tokenizer and image processor for these sizes: before `egem ask` or `egem train` can use it, "
            "copy tokenizer.json, tokenizer_config.json, chat_template.json and preprocessor_config.json of a "
            f"Qwen3-VL into {options.out / 'backbone'}."
        )


def _from_parts(options: InitOptions) -> None:
    if options.preset is not None:
        raise ConfigError("give either --preset or --backbone and --depth-head, not both.")
    missing = [name for name in ("backbone", "depth_head") if getattr(options, name) is None]
    if missing:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise ConfigError(f"{names} must be given too: a new checkpoint needs a Qwen3-VL and a Sana.")
    assert options.backbone is not None
    assert options.depth_head is not None
    from egem.models.interchange.assemble import assemble

    model = assemble(
        options.out,
        backbone=options.backbone,
        depth_head=options.depth_head,
        codec=options.codec or options.depth_head,
        seed=options.seed,
    )
    print(
        f"{options.out}: {model.config.preset} sizes, new connector of seed {options.seed}; "
        f"parameters: {_counts(model)}"
    )


def _counts(model: object) -> str:
    from egem.models.gem import GEM, parameter_report

    assert isinstance(model, GEM)
    return ", ".join(f"{name} {total:,}" for name, (total, _) in parameter_report(model).items())
