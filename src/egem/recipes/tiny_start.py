"""The last step of making the shipped start: depth by a plain read-out and by the depth head at once.

A small depth head needs a thousand steps to find which visual token belongs to which latent, and teaches the
backbone little until then (docs/log.md). A linear read-out of every visual token's own patch of the map teaches
at once; it is thrown away afterwards. SANA1.5 and Qwen3-VL, which it stands in for, need nothing of this.

    python -m egem.recipes.tiny_start --data data/tabletop --checkpoint runs/tiny-draw/model --out OUT
"""

import argparse
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from egem.batch import Batch
from egem.core.errors import ConfigError
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.models.gem import GEM
from egem.models.pretrained import load
from egem.shards import RecordGroups
from egem.training.host import keep_freed_memory

logger = logging.getLogger(__name__)

READ_OUT_WEIGHT = 13.7
"""Puts squared errors of encoded depth on the scale of the tiny codec's latents, which are 3.7 times as large."""


@dataclass(frozen=True, kw_only=True)
class ReadOutConfig:
    """How long and how fast."""

    data: Path
    """Records with one image and one depth map each, all of one size."""
    checkpoint: Path
    """To start from."""
    out: Path
    """Checkpoint folder to write, in bfloat16."""
    steps: int = 2500
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    seed: int = 0


def train_with_read_out(config: ReadOutConfig) -> Path:
    """Train backbone, connector and depth head by flow matching plus the read-out's squared error.

    Raises:
        ConfigError: the data's maps cannot be cut into one patch per visual token.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    model = load(config.checkpoint, dtype=torch.float32).train()
    preparer = Preparer.from_checkpoint(config.checkpoint)
    groups = RecordGroups((config.data,))
    order = ReadingOrder(len(groups), config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    read_out, optimizer = None, None
    loaded = batches(
        groups, preparer, order, batch_size=config.batch_size, num_steps=config.steps, max_turns=1
    )
    for step, batch in enumerate(loaded):
        hidden = model.backbone(batch)
        tokens, _ = model.backbone.image_tokens(hidden, batch)
        truth, valid = token_patches(model, batch)
        if read_out is None or optimizer is None:
            read_out = nn.Linear(tokens.shape[-1], truth.shape[-1])
            nn.init.zeros_(read_out.weight)
            nn.init.constant_(read_out.bias, float(truth.mean()))
            parameters = [*model.parameters(), *read_out.parameters()]
            optimizer = torch.optim.AdamW(parameters, weight_decay=0.02, betas=(0.9, 0.95), fused=True)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _factor(step, config)
        error = (read_out(tokens) - truth).square()[valid].mean()
        depth_sum, depth_count = model.depth_loss(hidden, batch, generator=generator)
        flow = depth_sum / depth_count
        (flow + READ_OUT_WEIGHT * error).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step + 1 == config.steps:
            logger.info(
                "step %d of %d: flow %.3f, read-out %.4f", step + 1, config.steps, flow, error.detach()
            )
    model.eval().to(torch.bfloat16).save_pretrained(config.out)
    return config.out


def token_patches(
    model: GEM, batch: Batch
) -> tuple[Float[Tensor, "image token value"], Bool[Tensor, "image token value"]]:
    """The patch of its encoded depth map that each visual token looks at, and which values are readings."""
    (targets,) = batch.depth
    assert targets.pixels is not None, "no latents were given"
    merge = model.backbone.merge_size
    _, rows, columns = (batch.image_grid[0] // torch.tensor([1, merge, merge])).tolist()
    height, width = targets.valid.shape[1:]
    if bool((batch.image_grid != batch.image_grid[0]).any()) or height % rows or width % columns:
        raise ConfigError(
            f"depth maps of {height} x {width} for images of {rows} x {columns} visual tokens: the read-out wants "
            "one whole patch a token and images of one size; render the data with egem data render."
        )
    if len(targets.valid) != len(batch.image_grid):
        raise ConfigError("the read-out wants one depth map for every image.")

    def cut(values: Tensor) -> Tensor:
        split = values.unflatten(1, (rows, height // rows)).unflatten(3, (columns, width // columns))
        return split.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)

    return cut(targets.pixels[:, 0]), cut(targets.valid)


def _factor(step: int, config: ReadOutConfig) -> float:
    rise = min(1.0, (step + 1) / config.warmup_steps)
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("data", "checkpoint", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    options = parser.parse_args()
    train_with_read_out(
        ReadOutConfig(data=options.data, checkpoint=options.checkpoint, out=options.out, steps=options.steps)
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
