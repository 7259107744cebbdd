"""Records left out, mixed and published: what stays is what should, and is counted."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egem.core.errors import ConfigError, RecordError
from egem.data_engine.curation.dedupe import DedupeConfig, dedupe
from egem.data_engine.curation.filters import RULES, FilterConfig, filter_records
from egem.data_engine.curation.hub_export import HubExportConfig, export_to_hub
from egem.data_engine.curation.leakage import find_leakage, write_clean
from egem.data_engine.curation.licences import licence_of, passing_on
from egem.data_engine.curation.mixture import MixConfig, mix
from egem.data_engine.curation.mixture_recipes import MIXTURES, MixtureRecipe, Portion, open_mixture
from egem.data_engine.curation.perceptual_hash import distance, hash_of_bytes, near_pairs, perceptual_hash
from egem.data_engine.engine import EngineConfig
from egem.media import decode_image, encode_depth, encode_png
from egem.records import Answer, DepthFile, ImageFile, Record
from egem.shards import RecordGroups, ShardWriter, iterate_records, verify_shards
from record_sets import group

ONE = EngineConfig(workers=1)


def photograph(seed: int, side: int = 96) -> Image.Image:
    """Smooth colours: unlike for other seeds, the same at any size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((side * 4 // 3, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, **options: object) -> ImageFile:
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "PNG"} | options))  # pyright: ignore[reportArgumentType]
    return ImageFile(data=buffer.getvalue())


def asked(name: str, seed: int, image: ImageFile, **changes: object) -> list[Record]:
    """Four questions about a picture."""
    return [
        replace(record, id=f"{name}/{record.skill}", group=name, images=(image,), depths=(), **changes)
        for record in group(seed, with_depth=False)
    ]


def write(folder: Path, groups: list[list[Record]]) -> Path:
    with ShardWriter(folder) as writer:
        for records in groups:
            for record in records:
                writer.add(record)
    return folder


def test_hashes_are_those_of_the_definition() -> None:
    image = photograph(1)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    n = np.arange(32)
    basis = np.cos(np.pi / 32 * np.outer(np.arange(8), n + 0.5))
    low = 4 * basis @ grey @ basis.T
    bits = "".join("1" if value > np.median(low) else "0" for value in low.reshape(-1))
    assert f"{perceptual_hash(image):064b}" == bits


def test_the_same_picture_in_other_form_is_near_and_others_are_far() -> None:
    def value(seed: int, side: int = 96, **options: object) -> np.ndarray:
        data = encoded(photograph(seed, side), **options).data
        assert data is not None
        return np.array([hash_of_bytes(data, "here")], np.uint64)

    for seed in range(5):
        for other in (
            value(seed, format="JPEG", quality=60),
            value(seed, 480, format="JPEG"),
            value(seed, 64),
        ):
            assert distance(value(seed), other)[0] <= 4
        assert distance(value(seed), value(seed + 1))[0] > 16


@pytest.mark.parametrize("max_distance", [0, 3, 8])
def test_near_pairs_are_all_of_them(max_distance: int) -> None:
    rng = np.random.default_rng(max_distance)
    left = rng.integers(0, 2**63, 60, dtype=np.uint64)
    flips = np.array([sum(1 << int(b) for b in rng.permutation(64)[:k]) for k in range(12)], np.uint64)
    right = np.concatenate([left[:12] ^ flips, left[:4], rng.integers(0, 2**63, 30, dtype=np.uint64)])
    expected = sorted(
        (i, j)
        for i in range(len(left))
        for j in range(len(right))
        if bin(int(left[i]) ^ int(right[j])).count("1") <= max_distance
    )
    pairs = [(i, j) for a, b in near_pairs(left, right, max_distance) for i, j in zip(a, b, strict=True)]
    assert sorted(map(tuple, np.array(pairs).tolist())) == expected
    assert len(expected) >= 4 + min(max_distance + 1, 12)


def test_questions_said_twice_go_and_others_about_the_picture_stay(tmp_path: Path) -> None:
    first, again = asked("a", 0, encoded(photograph(0))), encoded(photograph(0), format="JPEG", quality=70)
    second = asked("b", 0, again)
    second[1] = replace(
        second[1],
        answer=Answer(kind="number", text="9", number=9.0),
        messages=(second[1].messages[0], replace(second[1].messages[1], content="9")),
    )
    broken = asked("d", 3, ImageFile(data=b"no picture"))
    folder = write(tmp_path / "in", [first, second, asked("c", 0, encoded(photograph(2))), broken])
    result = dedupe(folder, tmp_path / "out", engine=ONE)
    assert [r.id for r in iterate_records(tmp_path / "out") if r.group == "b"] == ["b/counting"]
    assert (result.manifest.rows, result.removed, result.unreadable) == (13, {"test": 3}, 1)
    assert json.loads((tmp_path / "out" / "duplicates.json").read_text())["removed"] == {"test": 3}
    dedupe(folder, tmp_path / "pictures", DedupeConfig(what="pictures"), ONE)
    assert {r.group for r in iterate_records(tmp_path / "pictures")} == {"a", "c", "d"}
    with pytest.raises(ConfigError, match="0 to 16 bits"):
        DedupeConfig(max_distance=40)


def test_a_benchmarks_pictures_are_found_and_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [asked(f"g{i}", i, encoded(photograph(i))) for i in range(6)])
    theirs = [r for i in (2, 9) for r in asked(f"bench{i}", i, encoded(photograph(i, 300), format="JPEG"))]
    found = find_leakage(folder, [("vsr", theirs)], max_distance=8, engine=ONE)
    assert [(m.group, m.benchmark, m.item) for m in found.matches] == [("g2", "vsr", "bench2/nearest")]
    assert found.benchmarks == {"vsr": 2}
    write_clean(folder, tmp_path / "out", found, max_distance=8, engine=ONE)
    assert {r.group for r in iterate_records(tmp_path / "out")} == {f"g{i}" for i in (0, 1, 3, 4, 5)}
    assert json.loads((tmp_path / "out" / "leakage.json").read_text())["leaked_groups"] == 1
    with pytest.raises(RecordError, match="'none' has no picture"):
        find_leakage(folder, [("none", [])], max_distance=8, engine=ONE)


def test_every_rule_rejects_what_it_names(tmp_path: Path) -> None:
    good = group(0)
    image, depth = decode_image(good[0].images[0]), np.full((48, 64), 1.5, np.float32)

    def with_depth(name: str, values: np.ndarray, unit: float = 0.001) -> list[Record]:
        file = DepthFile(data=encode_depth(values, unit), unit_m=unit)
        records = asked(name, 0, good[0].images[0])
        return [replace(record, depths=(file,)) for record in records]

    half = encoded(photograph(4)).data
    assert half is not None
    # The end is there, so an import takes it; the middle is not.
    torn = ImageFile(data=half[:200] + b"\0" * 400 + half[600:])
    point, box = (next(r for r in good if r.skill == skill) for skill in ("free_space", "box"))
    off = replace(point, id="off", answer=replace(point.answer, text="[500, 900]", points=((500, 900),)))
    tiny = replace(box, id="tiny", answer=replace(box.answer, box=(100, 100, 105, 105)))
    long = replace(
        box, id="long", messages=(replace(box.messages[0], content="<image>" + " so" * 500), box.messages[1])
    )
    empty = np.zeros((48, 64), np.float32)
    folder = write(
        tmp_path / "in",
        [
            [*good, off, tiny, long],
            asked("torn", 1, torn),
            asked("small", 1, ImageFile(data=encode_png(image[:8]))),
            asked("narrow", 1, ImageFile(data=encode_png(np.tile(image, (1, 6, 1))))),
            asked("blank", 1, ImageFile(data=encode_png(np.full((48, 64, 3), 7, np.uint8)))),
            with_depth("missing", empty),
            with_depth("unit", depth * 1000, 1.0),
            with_depth("size", depth[:24]),
        ],
    )
    result = filter_records(folder, tmp_path / "out", FilterConfig(min_side=32), ONE)
    assert [r.id for r in iterate_records(tmp_path / "out")] == [r.id for r in good]
    assert result.rejected == {rule: 4 if number < 7 else 1 for number, rule in enumerate(RULES)}
    assert result.records == 4 + 3 + 7 * 4
    assert "4 blank_image" in result.table()
    with pytest.raises(RecordError, match="no record was added"):
        filter_records(folder, tmp_path / "none", FilterConfig(min_side=500), ONE)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders: twenty groups of no stated licence with depth, ten groups of RoboPoint under Apache-2.0."""
    folder = tmp_path_factory.mktemp("sets")
    own = write(folder / "own", [group(seed) for seed in range(20)])
    other = [
        asked(f"p{seed}", seed, encoded(photograph(seed)), source="robopoint", meta={"licence": "Apache-2.0"})
        for seed in range(10)
    ]
    return own, write(folder / "other", other)


def test_counts_are_exact_and_the_seed_decides(sets: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = MixtureRecipe(
        name="counts",
        portions=(
            Portion(name="robots", sources=("robopoint",), count=7),
            Portion(name="spatial", category="spatial", count=21),
        ),
    )
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = mix(recipe, sets, tmp_path / name, MixConfig(seed=seed), ONE)
        records = list(iterate_records(tmp_path / name))
        assert sum(r.source == "robopoint" for r in records) == 7
        assert sum(r.source == "test" and r.category == "spatial" for r in records) == 21
        assert [(s.available, s.taken) for s in result.shares] == [(40, 7), (40, 21)]
        found.append([r.id for r in records])
    assert found[0] == found[1] != found[2]
    mix(recipe, sets, tmp_path / "third", MixConfig(scale=1 / 3), ONE)
    assert json.loads((tmp_path / "third" / "manifest.json").read_text())["rows"] == 2 + 7


def test_weights_are_kept_to_the_record(sets: tuple[Path, Path], tmp_path: Path) -> None:
    portions = (
        Portion(name="own", sources=("test",), weight=3.0),
        Portion(name="robots", sources=("robopoint",), weight=2.0),
    )
    recipe = MixtureRecipe(name="weights", portions=portions)
    shares = mix(recipe, sets, tmp_path / "most", engine=ONE).shares
    assert [share.taken for share in shares] == [60, 40]
    shares = mix(recipe, sets, tmp_path / "few", MixConfig(total=24), ONE).shares
    assert [share.taken for share in shares] == [14, 10]
    with pytest.raises(
        ConfigError, match=r"'own' wants 120 and has 80; 'robots' wants 80 and has 40.*--allow-fewer"
    ):
        mix(recipe, sets, tmp_path / "many", MixConfig(total=200), ONE)
    taken = mix(recipe, sets, tmp_path / "many", MixConfig(total=200, allow_fewer=True), ONE).shares
    assert [share.taken for share in taken] == [80, 40]


def test_the_card_says_what_is_inside(sets: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = MixtureRecipe(name="all", portions=(Portion(name="everything", weight=1.0),))
    mix(recipe, sets, tmp_path / "out", engine=ONE)
    card = json.loads((tmp_path / "out" / "mixture.json").read_text())
    assert (card["records"], card["groups"], card["images"]) == (120, 30, 30)
    assert card["sources"]["test"]["depths"] == {"simulator (metric)": 20}
    assert card["sources"]["robopoint"]["depths"] == {"none": 10}
    assert card["sources"]["robopoint"]["licences"] == {"Apache-2.0": {"records": 40, "passing_on": "yes"}}
    assert card["answers"]["nearest"]["top_answers"] == {"left": 0.5, "right": 0.5}
    text = (tmp_path / "out" / "mixture.md").read_text()
    assert "| everything | 120 | 120 | 120 |" in text
    assert "| test | 80 | 20 | simulator (metric): 20 | not stated | unknown |" in text


def test_recipes_by_name_and_from_files(tmp_path: Path) -> None:
    by_category = {"grounding": 0, "spatial": 0, "planning": 0}
    for portion in MIXTURES["gem-4m"].portions:
        assert portion.category is not None
        by_category[portion.category] += portion.count or 0
    assert by_category == {"grounding": 1_000_000, "spatial": 2_900_000, "planning": 50_000}
    assert [p.count for p in MIXTURES["gem-250k"].portions] == [100_000, 100_000, 50_000]
    file = tmp_path / "mine.json"
    file.write_text('{"name": "mine", "portions": [{"name": "x", "skills": ["box"], "count": 3}]}')
    assert open_mixture(str(file)).portions[0].fits("any", "grounding", "box")
    with pytest.raises(ConfigError, match="Did you mean 'gem-4m'"):
        open_mixture("gem-4")
    file.write_text('{"name": "mine", "portions": [{"name": "x", "count": 3, "weight": 1.0}]}')
    with pytest.raises(ConfigError, match="a count or a weight, not both"):
        open_mixture(str(file))


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", "yes"),
        ("CC BY-NC-SA 4.0", "yes"),
        ("Apache-2.0 (videos keep the licences of their sets)", "yes"),
        ("ScanNet Terms of Use (research only, not to be passed on)", "no"),
        ("CC BY-ND 4.0", "no"),
        ("not stated by its publisher", "unknown"),
        ("Mitsubishi research licence", "unknown"),
    ],
)
def test_what_licences_allow(licence: str, expected: str) -> None:
    assert passing_on(licence) == expected
    assert licence_of("scannet", {}).startswith("ScanNet")
    assert licence_of("scannet", {"licence": licence}) == licence


def test_the_hub_loads_the_export_and_so_do_we(sets: tuple[Path, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with pytest.raises(ConfigError, match=r"test \('not stated'\).*--permitted"):
        export_to_hub(sets[0], tmp_path / "out", engine=ONE)
    export_to_hub(sets[0], tmp_path / "out", HubExportConfig(permitted=("test",)), ONE)
    verify_shards(tmp_path / "out")
    assert list(iterate_records(tmp_path / "out")) == list(iterate_records(sets[0]))
    assert len(RecordGroups([tmp_path / "out"])) == 20
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 80
    first = next(iter(iterate_records(sets[0])))
    assert np.array_equal(np.asarray(rows[0]["images"][0].convert("RGB")), decode_image(first.images[0]))
    assert rows[0]["depth_preview"].size == (64, 48)
    assert rows[0]["depths"][0]["unit_m"] == 0.001
    region = next(row for row in rows if row["skill"] == "free_space")["answer"]["region"]
    assert region.size == (64, 48)
    with pytest.raises(ConfigError, match="'scannet' is not in the folder"):
        export_to_hub(sets[0], tmp_path / "x", HubExportConfig(permitted=("scannet",)), ONE)
