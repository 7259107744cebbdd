"""What a folder of records is made of: sources, counts, licences, origins of depth, balance of answers."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from egem.core.errors import RecordError
from egem.data_engine.curation.licences import licence_of, passing_on
from egem.data_engine.statistics import SkillStatistics, statistics
from egem.shards import read_manifest
from egem.shards.parquet import PARQUET_ERRORS

_LEAF = re.compile(r"source|group|meta|images\..*\.path|depths\..*\.(kind|origin)")

CARD_JSON, CARD_MARKDOWN = "mixture.json", "mixture.md"


@dataclass(kw_only=True)
class SourceFacts:
    """One source's part of a folder."""

    records: int = 0
    groups: int = 0
    images: int = 0
    """Of all records; groups share theirs, which are counted once."""
    licences: Counter[str] = field(default_factory=Counter)
    """Licence -> records."""
    depths: Counter[str] = field(default_factory=Counter)
    """"origin (kind)" -> images with such a depth map; "none" -> images without."""


def source_facts(folder: Path) -> dict[str, SourceFacts]:
    """What each source gave; images and depth maps are counted but not read.

    Raises:
        RecordError: a shard is damaged.
    """
    facts: dict[str, SourceFacts] = defaultdict(SourceFacts)
    for shard in read_manifest(folder).shards:
        path = Path(folder) / shard.name
        try:
            file = pq.ParquetFile(path)
            # Leaves, by whatever name their writer gave to the elements of a list: no picture is read.
            leaves = [file.schema.column(index).path for index in range(len(file.schema.names))]
            rows = file.read(columns=[leaf for leaf in leaves if _LEAF.fullmatch(leaf)]).to_pylist()
        except PARQUET_ERRORS as error:
            raise RecordError(f"{path} cannot be read ({error}); copy it again.") from error
        last = None
        for row in rows:
            mine = facts[row["source"]]
            mine.records += 1
            mine.licences[licence_of(row["source"], json.loads(row["meta"]))] += 1
            if row["group"] == last:
                continue
            last = row["group"]
            mine.groups += 1
            mine.images += len(row["images"])
            known = [depth for depth in row["depths"] or () if depth is not None and depth["kind"]]
            for depth in known:
                mine.depths[f"{depth['origin']} ({depth['kind']})"] += 1
            if len(known) < len(row["images"]):
                mine.depths["none"] += len(row["images"]) - len(known)
    return dict(sorted(facts.items()))


def card_files(folder: Path, stated: dict[str, Any]) -> tuple[bytes, bytes]:
    """The card of a folder as JSON and as Markdown.

    Args:
        folder: of records.
        stated: what the recipe asked for: "name", "seed", "shares" (of portions) and "options".

    Raises:
        RecordError: a shard is damaged.
    """
    measured = statistics(folder)
    facts = source_facts(folder)
    manifest = measured.manifest
    content = {
        **stated,
        "records": manifest.rows,
        "groups": manifest.groups,
        "images": manifest.images,
        "by_category": manifest.by_category,
        "sources": {
            name: {
                "records": mine.records,
                "groups": mine.groups,
                "images": mine.images,
                "licences": {
                    licence: {"records": count, "passing_on": passing_on(licence)}
                    for licence, count in mine.licences.most_common()
                },
                "depths": dict(mine.depths.most_common()),
            }
            for name, mine in facts.items()
        },
        "answers": {
            skill.name: {
                "category": skill.category,
                "records": skill.rows,
                "kind": skill.kind,
                "top_answers": dict(skill.top_answers),
                "first_option": skill.first_option,
                "numbers_5_50_95": skill.numbers,
                "chance": skill.chance,
                "blind": skill.blind,
            }
            for skill in measured.skills
        },
    }
    return (json.dumps(content, indent=2) + "\n").encode(), _markdown(
        content, facts, measured.skills
    ).encode()


def _markdown(
    content: dict[str, Any], facts: dict[str, SourceFacts], skills: tuple[SkillStatistics, ...]
) -> str:
    lines = [
        f"# Mixture {content['name']}",
        "",
        f"{content['records']:,} records in {content['groups']:,} groups about {content['images']:,} images, drawn "
        f"with seed {content['seed']}.",
        "",
        "| portion | wanted | available | taken |",
        "|---|--:|--:|--:|",
    ]
    for share in content["shares"]:
        short = " (fewer)" if share["taken"] < share["wanted"] else ""
        lines.append(
            f"| {share['portion']['name']} | {share['wanted']:,} | {share['available']:,} | {share['taken']:,}{short} |"
        )
    lines += [
        "",
        "| source | records | images | depth | licence | may be passed on |",
        "|---|--:|--:|---|---|---|",
    ]
    for name, mine in facts.items():
        depths = ", ".join(f"{origin}: {count:,}" for origin, count in mine.depths.most_common())
        licences = [licence for licence, _ in mine.licences.most_common()]
        allowed = ", ".join(dict.fromkeys(passing_on(licence) for licence in licences))
        lines.append(
            f"| {name} | {mine.records:,} | {mine.images:,} | {depths} | {'; '.join(licences)} | {allowed} |"
        )
    lines += [
        "",
        "How answers are spread; `blind` is the best score found without looking at the images.",
        "",
        "| category | skill | records | answers | chance | blind |",
        "|---|---|--:|---|--:|--:|",
    ]
    for skill in skills:
        chance, blind = ("" if v is None else f"{v:.2f}" for v in (skill.chance, skill.blind))
        lines.append(
            f"| {skill.category} | {skill.name} | {skill.rows:,} | {_balance(skill)} | {chance} | {blind} |"
        )
    return "\n".join(lines) + "\n"


def _balance(skill: SkillStatistics) -> str:
    if skill.numbers is not None:
        return "5 %, median, 95 %: " + ", ".join(f"{value:.2f}" for value in skill.numbers)
    if skill.first_option is not None:
        return f"first option right {skill.first_option:.0%}"
    shown = ", ".join(f"{text[:24]} {share:.0%}" for text, share in skill.top_answers)
    return shown.replace("|", "/").replace("\n", " ")
