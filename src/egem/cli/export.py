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
    format: Literal["qwen3-vl", "gem-official"]
    """`qwen3-vl`: the backbone alone, for transformers and vLLM; `gem-official`: for the released code."""
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


def export(arguments: list[str]) -> None:
    """Write the folder."""
    options = parse(ExportOptions, "export", arguments)
    from egem.models.interchange.checkpoint import export_backbone
    from egem.models.interchange.official import export_official

    if options.format == "qwen3-vl":
        export_backbone(options.checkpoint, options.out)
    else:
        export_official(options.checkpoint, options.out)
    print(f"{options.out}: {options.checkpoint} as {options.format}")


def import_official(arguments: list[str]) -> None:
    """Write the checkpoint, and say what its depth head looks like."""
    options = parse(ImportOfficialOptions, "import-official", arguments)
    from egem.models.gem import parameter_report
    from egem.models.interchange import official

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
