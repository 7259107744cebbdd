"""Records are readable without egem, and the page that explains them names every column."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egem.data_engine import build
from egem.data_engine.symbolic import block_scene
from egem.records import SCHEMA
from egem.shards import iterate_records

DOCS = Path(__file__).parents[2] / "docs" / "record-format.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "blocks"
    build((block_scene(i) for i in range(3)), path, num_questions=30, seed=0)
    return path


def test_datasets_alone_reads_everything(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = sorted(map(str, folder.glob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    records = list(iterate_records(folder))
    assert len(rows) == len(records)
    assert set(rows.column_names) == set(SCHEMA.names)
    for row, record in zip(rows, records, strict=True):
        assert row["skill"] == record.skill
        assert [m["content"] for m in row["messages"]] == [m.content for m in record.messages]
        assert row["answer"]["text"] == record.answer.text
        assert [tuple(p) for p in row["answer"]["points"]] == list(record.answer.points)
        assert json.loads(row["meta"]) == record.meta
    scene, row = block_scene(0), rows[0]
    image = np.asarray(Image.open(io.BytesIO(row["images"][0]["bytes"])))
    np.testing.assert_array_equal(image, scene.image)
    counts = np.asarray(Image.open(io.BytesIO(row["depths"][0]["bytes"]))).astype(np.float32)
    np.testing.assert_allclose(counts * row["depths"][0]["unit_m"], scene.depth, atol=3e-4)
    decoded = rows.cast_column("images", datasets.List(datasets.Image()))[0]["images"][0]
    np.testing.assert_array_equal(np.asarray(decoded), scene.image)


def test_pandas_reads_the_text_columns(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(folder / "shard-00000.parquet", columns=["skill", "answer"])
    records = list(iterate_records(folder))
    assert table["skill"].tolist() == [r.skill for r in records]
    assert [a["text"] for a in table["answer"]] == [r.answer.text for r in records]


def test_the_page_names_every_column() -> None:
    text = DOCS.read_text()
    names = [*SCHEMA.names, *(field.name for field in SCHEMA.field("answer").type)]
    assert [name for name in names if f"`{name}`" not in text] == []
