"""`egem export` and `egem import-official`: checkpoints from and for other software."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from egem.cli.options import parse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a checkpoint in another layout. No value changes."""

    checkpoint: Positional[Path]
    """Checkpoint folder."""
    format: Literal["qwen3-vl", "gem-official", "gem-vla-expert"]
    """`qwen3-vl`: the backbone alone, for transformers and vLLM; `gem-official`: for the released code;
    `gem-vla-expert`: the action expert alone, for the released GEM-VLA."""
    out: Path
    """Folder to write; it must not exist yet."""


@dataclass(frozen=True, kw_only=True)
class ImportOfficialOptions:
    """Write a checkpoint from a released GEM (or what `egem export --format gem-official` wrote)."""

    source: Positional[str]
    """Folder, weight file (.safetensors; others are read as plain tensors only) or hub id."""
    out: Path
    """Folder to write; it must not exist yet."""
    backbone: str | None = None
    """Qwen3-VL with the configuration and tokenizer, if they do not lie beside the weights."""
    depth_head: str | None = None
    """Sana to compare the depth head with, and whose sizes it has; SANA1.5 1.6B's otherwise."""
    codec: str | None = None
    """AutoencoderDC whose sizes the codec has; DC-AE f32c32's otherwise."""
    onto: Path | None = None
    """The source is the released GEM-VLA's action expert: write this checkpoint again with the expert on it."""


def export(arguments: list[str]) -> None:
    """Write the folder."""
    options = parse(ExportOptions, "export", arguments)
    from egem.models.interchange.checkpoint import export_backbone
    from egem.models.interchange.expert import export_expert
    from egem.models.interchange.official import export_official
    from egem.models.pretrained import EXPERT

    if options.format == "gem-vla-expert":
        export_expert(options.checkpoint, options.out)
    elif options.format == "qwen3-vl":
        export_backbone(options.checkpoint, options.out)
    else:
        export_official(options.checkpoint, options.out)
    if options.format != "gem-vla-expert" and (options.checkpoint / EXPERT).is_dir():
        logger.warning("the action expert has no place in this layout; --format gem-vla-expert writes it.")
    print(f"{options.out}: {options.checkpoint} as {options.format}")


def import_official(arguments: list[str]) -> None:
    """Write the checkpoint, and say what its depth head looks like."""
    options = parse(ImportOfficialOptions, "import-official", arguments)
    from egem.models.gem import parameter_report
    from egem.models.interchange import official

    if options.onto is not None:
        _import_expert(options)
        return
    model, findings = official.import_official(
        options.source,
        options.out,
        backbone=options.backbone,
        depth_head=options.depth_head,
        codec=options.codec,
    )
    for warning in findings.warnings():
        logger.warning("warning: %s", warning)
    counts = ", ".join(f"{name} {total:,}" for name, (total, _) in parameter_report(model).items())
    print(f"{options.out}: {model.config.preset} sizes; parameters: {counts}; {findings.summary()}")


def _import_expert(options: ImportOfficialOptions) -> None:
    from egem.core.errors import ConfigError
    from egem.models.interchange.expert import import_expert

    if any(part is not None for part in (options.backbone, options.depth_head, options.codec)):
        raise ConfigError(
            "--onto brings its own backbone, depth head and codec; leave the other options out."
        )
    assert options.onto is not None
    config = import_expert(Path(options.source), options.onto, options.out)
    print(
        f"{options.out}: {options.onto} with an action expert of {len(config.layers)} blocks, horizon "
        f"{config.horizon}, {config.action_dim} action and {config.state_dim} state numbers"
    )
