"""`egem data mix`: exact counts, or as much as weights allow, of several folders; which records depends on the seed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int

from egem.core.config import to_dict
from egem.core.errors import ConfigError, RecordError
from egem.data_engine.curation.mixture_card import CARD_JSON, CARD_MARKDOWN, card_files
from egem.data_engine.curation.mixture_recipes import MixtureRecipe, Portion
from egem.data_engine.curation.selection import Chosen, write_selection
from egem.data_engine.engine import EngineConfig, JobResult
from egem.data_engine.sources.splits import HELD_OUT
from egem.shards import Manifest, RecordGroups


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How a recipe is applied."""

    seed: int = 0
    """Decides which records are taken where there are more than wanted."""
    scale: float = 1.0
    """All counts of the recipe times this, rounded."""
    total: int | None = None
    """Records in all, for a recipe of weights; as many as the weights allow if None."""
    allow_fewer: bool = False
    """Where a portion has fewer records than wanted, take what there is; the card says so."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: names the option.
        """
        if self.scale <= 0:
            raise ConfigError(f"scale is {self.scale}; it must be positive.")
        if self.total is not None and self.total < 1:
            raise ConfigError(f"total is {self.total}; it must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a portion asked for and got."""

    portion: Portion
    available: int
    """Records that fit the portion and no earlier one."""
    wanted: int
    taken: int


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """What came of a recipe."""

    manifest: Manifest
    shares: tuple[Share, ...]


def mix(
    recipe: MixtureRecipe,
    folders: Sequence[Path],
    out: Path,
    config: MixConfig | None = None,
    engine: EngineConfig | None = None,
) -> Mixed:
    """Write a mixture of record folders, with a card beside it.

    A record counts for the first portion that it fits. Groups are taken whole in a drawn order until a portion is full;
    of the last one as many records as are missing. Records keep the folders' order: training draws its own.

    Args:
        recipe: what to take.
        folders: of records.
        out: folder to write; must not exist or be empty.
        config: seed and size.
        engine: who copies.

    Raises:
        ConfigError: a portion has fewer records than wanted, one of its records is held out for evaluation, a
            senseless option, or `out` exists.
        RecordError: a shard is damaged, or an id occurs in two folders.
    """
    config = config or MixConfig()
    groups = RecordGroups(folders)
    table = _Table.read(folders, recipe.portions)
    available = [int((table.portion == number).sum()) for number in range(len(recipe.portions))]
    wanted = _wanted(recipe, available, config)
    taken = np.zeros(len(table.portion), bool)
    shares = []
    for number, portion in enumerate(recipe.portions):
        count = min(wanted[number], available[number])
        taken[_draw(table, number, count, np.random.default_rng([config.seed, number]))] = True
        shares.append(Share(portion=portion, available=available[number], wanted=wanted[number], taken=count))
    stated = {"name": recipe.name, "seed": config.seed, "options": to_dict(config), "shares": to_dict(shares)}

    def notes(folder: Path, _result: JobResult) -> dict[str, bytes]:
        json_bytes, markdown = card_files(folder, stated)
        return {CARD_JSON: json_bytes, CARD_MARKDOWN: markdown}

    why = {"mixture": to_dict(recipe), "options": to_dict(config)}
    manifest = write_selection(
        _selected(table, taken, len(groups)), folders, out, why=why, notes=notes, engine=engine
    )
    return Mixed(manifest=manifest, shares=tuple(shares))


@dataclass(frozen=True, kw_only=True)
class _Table:
    """All records of the folders, without their content."""

    group: Int[np.ndarray, "record"]
    """Number of its group; the groups of all folders are counted on."""
    place: Int[np.ndarray, "record"]
    """Within its group."""
    portion: Int[np.ndarray, "record"]
    """The first one that it fits; -1 for none."""

    @classmethod
    def read(cls, folders: Sequence[Path], portions: Sequence[Portion]) -> "_Table":
        group: list[np.ndarray] = []
        portion: list[np.ndarray] = []
        start = 0
        for shard in RecordGroups(folders).shards:
            path = shard.place.join(shard.info.name)
            try:
                table = pq.read_table(
                    shard.place.open(shard.info.name, digest=shard.info.sha256),
                    columns=["id", "group", "source", "category", "skill", "meta"],
                )
            except OSError as error:
                raise RecordError(f"{path} cannot be read ({error}); copy it again.") from error
            names = np.array(table.column("group").to_pylist(), dtype=object)
            new = np.ones(len(names), bool)
            new[1:] = names[1:] != names[:-1]
            group.append(start + np.cumsum(new) - 1)
            start = int(group[-1][-1]) + 1
            kinds = list(
                zip(*(table.column(c).to_pylist() for c in ("source", "category", "skill")), strict=True)
            )
            fits = {kind: _first_fit(kind, portions) for kind in set(kinds)}
            portion.append(np.array([fits[kind] for kind in kinds], np.int64))
            _refuse_held_out(table, portion[-1] >= 0, path)
        groups = np.concatenate(group)
        first = np.searchsorted(groups, groups)
        return cls(group=groups, place=np.arange(len(groups)) - first, portion=np.concatenate(portion))


def _refuse_held_out(table: pa.Table, fits: np.ndarray, path: str) -> None:
    """Mixtures are trained on: none takes what its publisher holds out.

    Raises:
        ConfigError: with the first record.
    """
    # Few records are read as JSON: those that may say it, by the words of it.
    likely = pc.match_substring_regex(table.column("meta"), rf'"split": *"{HELD_OUT}"').to_numpy(False)  # pyright: ignore[reportAttributeAccessIssue]
    for row in np.flatnonzero(likely.astype(bool) & fits).tolist():
        if json.loads(table.column("meta")[row].as_py()).get("split") == HELD_OUT:
            raise ConfigError(
                f"{path}: record '{table.column('id')[row].as_py()}' is of a split that its set holds out for "
                "evaluation (meta.split), and a mixture is trained on; leave the folder out, or import the set with "
                "--split train."
            )


def _first_fit(kind: tuple[str, str, str], portions: Sequence[Portion]) -> int:
    return next((number for number, portion in enumerate(portions) if portion.fits(*kind)), -1)


def _wanted(recipe: MixtureRecipe, available: Sequence[int], config: MixConfig) -> list[int]:
    """Records of each portion.

    Raises:
        ConfigError: a portion has fewer.
    """
    portions = recipe.portions
    if recipe.has_weights:
        weights = np.array([portion.weight for portion in portions], np.float64)
        weights /= weights.sum()
        total = config.total or recipe.total
        if total is None:
            total = int(min(have / weight for have, weight in zip(available, weights, strict=True)))
            if total < 1:
                raise _too_few(portions, [1] * len(portions), available)
        total = max(1, round(total * config.scale))
        wanted = np.floor(weights * total).astype(int)
        # Whole records: those with the largest remainders get what is left over.
        left = np.argsort(-(weights * total - wanted), kind="stable")[: total - int(wanted.sum())]
        wanted[left] += 1
        found = wanted.tolist()
    else:
        if config.total is not None:
            raise ConfigError(
                f"recipe '{recipe.name}' states counts; --total is for weights. Use --scale for a smaller one."
            )
        found = [max(1, round((portion.count or 0) * config.scale)) for portion in portions]
    if not config.allow_fewer and any(have < want for have, want in zip(available, found, strict=True)):
        raise _too_few(portions, found, available)
    if not any(min(have, want) for have, want in zip(available, found, strict=True)):
        raise _too_few(portions, found, available)
    return found


def _too_few(portions: Sequence[Portion], wanted: Sequence[int], available: Sequence[int]) -> ConfigError:
    lines = [
        f"'{portion.name}' wants {want} and has {have}"
        for portion, want, have in zip(portions, wanted, available, strict=True)
        if have < want
    ]
    ratio = min(have / want for have, want in zip(available, wanted, strict=True) if want)
    hint = f"a --scale of {ratio:.4g} times the present one fits, " if ratio > 0 else ""
    return ConfigError(
        f"too few records: {'; '.join(lines)}. Import more of these sources; {hint}or give --allow-fewer."
    )


def _draw(table: _Table, number: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, "record"]:
    """Which records to take of a portion."""
    records = np.flatnonzero(table.portion == number)
    if count == 0:
        return records[:0]
    groups, inverse = np.unique(table.group[records], return_inverse=True)
    rank = rng.permutation(len(groups))
    # In the drawn order of their groups, and within a group in the stored order: the last group may be cut.
    return records[np.argsort(rank[inverse], kind="stable")[:count]]


def _selected(table: _Table, taken: np.ndarray, num_groups: int) -> list[Chosen]:
    sizes = np.bincount(table.group, minlength=num_groups)
    kept = np.bincount(table.group[taken], minlength=num_groups)
    ends = np.cumsum(sizes)
    chosen = []
    for group in np.flatnonzero(kept).tolist():
        if kept[group] == sizes[group]:
            chosen.append(Chosen(group=group))
            continue
        span = slice(int(ends[group] - sizes[group]), int(ends[group]))
        chosen.append(Chosen(group=group, places=tuple(table.place[span][taken[span]].tolist())))
    return chosen
