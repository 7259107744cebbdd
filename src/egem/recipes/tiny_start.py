"""The last step of making the shipped start: read-outs of the visual tokens beside all that GEM trains.

A small depth head needs a thousand steps to find which visual token belongs to which latent, and a small language
model as long to look at the picture at all; neither teaches the backbone much until then (docs/log.md). Linear
read-outs teach at once: of every visual token its own patch of the depth map, and what its cell of the picture
shows (from the answers of the skill `layout`); of the tokens that an answer begins with, which cells the question is
about. They are thrown away afterwards. SANA1.5 and Qwen3-VL, which the start stands in for, need nothing of this.

A checkpoint whose vision tower has fewer blocks than the preset's is deepened first: new blocks between the old ones
that change nothing until they have learned something.

    egem data render --num 16000 --cameras front side --seed 31 --questions 9 --out data/start \
        --skills caption layout is_there color_of shape_of point_at_object box_of_object object_at_point
    python -m egem.recipes.tiny_start --data data/start --checkpoint runs/tiny-draw/model --out OUT

The same teaches a policy's start to find what instructions name, in pictures like those it will act in (`egem data
render --world tasks`; docs/gem-vla.md), and the study's backbone to see without knowing depth (`with_depth`).
"""

import logging
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from egem.batch import IGNORE_LABEL, Batch
from egem.core.errors import ConfigError
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.data_engine.skills.counting import COLORS
from egem.data_engine.skills.describing import GRID
from egem.device import device_of
from egem.models.gem import GEM
from egem.models.presets import build
from egem.models.pretrained import load
from egem.records import COORDINATE_RANGE, Record
from egem.shards import RecordGroups
from egem.training.host import keep_freed_memory

logger = logging.getLogger(__name__)

DEPTH_WEIGHT = 13.7
"""Puts squared errors of encoded depth on the scale of the tiny codec's latents, which are 3.7 times as large."""

Cells = dict[str, list[tuple[str, str]]]
"""Of groups of records: the colour and the shape that each cell of the picture shows, row by row."""

Places = dict[str, list[int]]
"""Of records: the cells that their question is about."""


@dataclass(frozen=True, kw_only=True)
class ReadOutConfig:
    """How long and how fast."""

    data: tuple[Path, ...]
    """Folders of records with one image, one depth map each, all of one size; most groups have a `layout`."""
    checkpoint: Path
    """To start from."""
    out: Path
    """Checkpoint folder to write, in bfloat16; replaced every `save_every` steps."""
    steps: int = 2500
    batch_size: int = 16
    max_turns: int = 4
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    language_weight: float = 0.3
    cell_weight: float = 0.2
    place_weight: float = 0.3
    with_depth: bool = True
    """Also teach to draw, and to read depth out of the tokens; without, the backbone sees but knows no depth."""
    save_every: int = 1000
    workers: int = 1
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: a GPU if there is one."""
    seed: int = 0


class ReadOut(nn.Module):
    """What linear maps find: in visual tokens depth, colours and shapes; in answers' first tokens where things are.

    Args:
        hidden_size: of the tokens.
        patch_size: values of the depth map that belong to one token.
        cells: of all groups.
        places: of all records that are about one place.
    """

    def __init__(self, hidden_size: int, patch_size: int, cells: Cells, places: Places) -> None:
        super().__init__()
        self.cells, self.places = cells, places
        self.words = tuple(
            sorted({cell[part] for found in cells.values() for cell in found}) for part in range(2)
        )
        self.depth = nn.Linear(hidden_size, patch_size)
        self.names = nn.ModuleList(nn.Linear(hidden_size, len(words)) for words in self.words)
        self.where = nn.Linear(hidden_size, GRID**2)

    def losses(
        self,
        hidden: Float[Tensor, "sample token hidden"],
        tokens: Float[Tensor, "image patch hidden"],
        batch: Batch,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Mean cross entropies of the cells' two names, and of the places that questions are about."""
        names = [
            functional.cross_entropy(
                linear(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORE_LABEL
            )
            for linear, targets in zip(self.names, self._targets(batch, tokens.shape[1]), strict=True)
        ]
        return torch.stack(names).mean(), self._places(hidden, batch)

    def depth_error(
        self, tokens: Float[Tensor, "image patch hidden"], model: GEM, batch: Batch
    ) -> Float[Tensor, ""]:
        """Mean squared error of encoded depth, where it was read."""
        truth, valid = token_patches(model, batch)
        return (self.depth(tokens) - truth).square()[valid].mean()

    def _places(self, hidden: Float[Tensor, "sample token hidden"], batch: Batch) -> Float[Tensor, ""]:
        """The tokens that an answer's first two are predicted from are to know in which cells it is about.

        From them alone: compared with the visual tokens, their names would do, and nothing would have been found.
        Later ones would read the place off what has been said already.
        """
        said = batch.labels[:, 1:] != IGNORE_LABEL
        begins = said & ~functional.pad(said, (1, 0))[:, :-1]
        early = said & (begins | functional.pad(begins, (1, 0))[:, :-1])
        # Answers follow each other in the order of the records.
        turn = begins.flatten().cumsum(0).view_as(said)[early] - 1
        known = [self.places.get(name, []) for name in batch.record_ids]
        wanted = torch.zeros(len(known), GRID**2, dtype=torch.bool)
        for row, cells in enumerate(known):
            wanted[row, cells] = True
        wanted = wanted.to(hidden.device)[turn]
        shares = self.where(hidden[:, :-1][early]).log_softmax(-1).masked_fill(~wanted, -torch.inf)
        is_known = wanted.any(-1)
        return -shares[is_known].logsumexp(-1).mean() if bool(is_known.any()) else shares.sum() * 0

    def _targets(self, batch: Batch, num_tokens: int) -> Iterator[Int[Tensor, "image token"]]:
        groups = dict.fromkeys(name.rsplit("/", 1)[0] for name in batch.record_ids)
        found = [self.cells.get(group) for group in groups]
        for part, words in enumerate(self.words):
            number = {word: index for index, word in enumerate(words)}
            unknown = [IGNORE_LABEL] * num_tokens
            yield torch.tensor(
                [[number[cell[part]] for cell in cells] if cells else unknown for cells in found],
                device=batch.input_ids.device,
            )


def train_with_read_out(config: ReadOutConfig) -> Path:
    """Train all parts on their own losses plus the read-outs'.

    Raises:
        ConfigError: the data's maps cannot be cut into one patch per visual token, or a group has no `layout`.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    device = device_of(config.device)
    model = deepened(load(config.checkpoint, dtype=torch.float32), seed=config.seed).to(device).train()
    preparer = Preparer.from_checkpoint(config.checkpoint)
    groups = RecordGroups(config.data)
    patch_size = (model.config.depth.long_side // GRID) ** 2
    cells = cells_of(groups)
    read_out = ReadOut(model.backbone.hidden_size, patch_size, cells, places_of(groups, cells)).to(device)
    parameters = [*model.parameters(), *read_out.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.02, betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    loaded = batches(
        groups,
        preparer,
        ReadingOrder(len(groups), config.seed),
        batch_size=config.batch_size,
        num_steps=config.steps,
        max_turns=config.max_turns,
        workers=config.workers,
    )
    for step, batch in enumerate((batch.to(device) for batch in loaded), start=1):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _factor(step, config)
        hidden = model.backbone(batch)
        tokens, _ = model.backbone.image_tokens(hidden, batch)
        cell_error, place_error = read_out.losses(hidden, tokens, batch)
        language_sum, language_count = model.backbone.language_loss(hidden, batch)
        language = language_sum / language_count
        losses = {"language": language, "cells": cell_error, "places": place_error}
        total = (
            config.language_weight * language
            + config.cell_weight * cell_error
            + config.place_weight * place_error
        )
        if config.with_depth:
            depth_sum, depth_count = model.depth_loss(hidden, batch, generator=generator)
            losses |= {"flow": depth_sum / depth_count, "depth": read_out.depth_error(tokens, model, batch)}
            total = total + losses["flow"] + DEPTH_WEIGHT * losses["depth"]
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == config.steps:
            told = ", ".join(f"{name} {float(loss.detach()):.4f}" for name, loss in losses.items())
            logger.info("step %d of %d: %s", step, config.steps, told)
        if step % config.save_every == 0 or step == config.steps:
            _save(model, config.out)
    return config.out


def deepened(model: GEM, *, seed: int = 0) -> GEM:
    """The model with a vision tower as deep as its preset's, computing what it computed.

    New blocks add nothing to what flows past them: the last weights of their attention and of their MLP are zero.

    Raises:
        ConfigError: the preset's tower is not a whole number of times as deep.
    """
    grown = build(model.config.preset, seed=seed)
    old, new = len(_vision(model).blocks), len(_vision(grown).blocks)
    if old == new:
        return model
    if new % old:
        raise ConfigError(f"a vision tower of {old} blocks cannot be spread evenly over {new}.")
    for block in _vision(grown).blocks:
        for last in (block.attn.proj, block.mlp.linear_fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    place = re.compile(r"(?<=visual\.blocks\.)\d+")
    weights = {
        place.sub(lambda found: str(int(found.group()) * new // old), name): value
        for name, value in model.state_dict().items()
    }
    grown.load_state_dict(grown.state_dict() | weights)
    return grown


def _vision(model: GEM) -> Any:
    return model.backbone.qwen.model.visual


def cells_of(groups: RecordGroups) -> Cells:
    """The answers of `layout`, cut into cells; robot, table and room are colour and shape at once.

    Raises:
        ConfigError: no group has such an answer.
    """
    cells: Cells = {}
    for record in (record for records in groups for record in records if record.skill == "layout"):
        words = iter(record.messages[-1].content.replace(";", "").split())
        cells[record.group] = [(word, next(words) if word in COLORS else word) for word in words]
    if not cells:
        raise ConfigError(f"no record of {groups.folders[0]} has the skill 'layout'; ask for it (--skills).")
    return cells


def places_of(groups: RecordGroups, cells: Cells) -> Places:
    """The cells that each question about one place is about: of a point, a box, or a thing by colour and shape."""
    places: Places = {}
    for record in (record for records in groups for record in records):
        found = _place(record, cells.get(record.group, []))
        if found:
            places[record.id] = found
    return places


def _place(record: Record, cells: list[tuple[str, str]]) -> list[int]:
    answer, question = record.answer, record.messages[0].content
    if record.skill == "object_at_point":
        return [_cell_at(*record.meta["point"])]
    if answer is not None and answer.points:
        return [_cell_at(*answer.points[0])]
    if answer is not None and answer.box is not None:
        left, top, right, bottom = answer.box
        return [_cell_at((left + right) // 2, (top + bottom) // 2)]
    if record.skill in ("color_of", "shape_of", "is_there"):
        said = set(re.findall(r"[a-z]+", f"{question} {record.messages[-1].content}".lower()))
        return [
            place for place, (color, shape) in enumerate(cells) if color != shape and {color, shape} <= said
        ]
    return []


def _cell_at(x: int, y: int) -> int:
    """Of a point in thousandths of the picture."""
    column, row = (min(value * GRID // COORDINATE_RANGE, GRID - 1) for value in (x, y))
    return row * GRID + column


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


def _save(model: GEM, out: Path) -> None:
    """In bfloat16; the model goes on in float32."""
    model.eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    if out.exists():
        shutil.rmtree(out)
    model.to(torch.bfloat16).save_pretrained(out)
    model.to(torch.float32).load_state_dict(weights)
    model.train()


def _factor(step: int, config: ReadOutConfig) -> float:
    rise = min(1.0, step / config.warmup_steps)
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train_with_read_out(tyro.cli(ReadOutConfig, description=__doc__))
