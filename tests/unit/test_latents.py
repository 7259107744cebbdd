"""Latents computed once equal those computed in training, and are refused where they do not belong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.tiny import write_checkpoint
from tests.training_runs import assert_close, micro_config, numbers, three_stages, write_records

from egem.core.errors import ConfigError, RecordError
from egem.data.latents import FOLDER, LatentRecipe, codec_revision, open_latents
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.data_engine.engine import EngineConfig
from egem.media import encode_depth, encode_png
from egem.models.depth_codec import DCAECodec, PixelCodec, load_codec, target_latents, target_weight
from egem.recipes.latents import LatentsConfig, annotate_latents
from egem.records import Answer, DepthFile, ImageFile, Message, Record
from egem.shards import RecordGroups, ShardWriter
from egem.training.loop import train

CODECS = ("pixel", "dc-ae")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {codec: write_checkpoint(folder / codec, codec) for codec in CODECS}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory, checkpoints) -> Path:
    """Records in two shards, with the latents of both codecs."""
    data = write_records(tmp_path_factory.mktemp("data") / "records", num_groups=12)
    for checkpoint in checkpoints.values():
        annotate_latents(LatentsConfig(data=data, checkpoint=checkpoint, device="cpu"))
    return data


def recipe_of(checkpoint: Path) -> tuple[Preparer, LatentRecipe]:
    preparer = Preparer.from_checkpoint(checkpoint)
    return preparer, LatentRecipe.from_checkpoint(checkpoint, preparer)


def copied(data: Path, folder: Path) -> Path:
    return Path(shutil.copytree(data, folder / "records"))


@pytest.mark.parametrize("codec_name", CODECS)
def test_batches_with_stored_latents_equal_those_without(annotated, checkpoints, codec_name):
    preparer, recipe = recipe_of(checkpoints[codec_name])
    groups = RecordGroups([annotated])
    latents = open_latents(groups, recipe, "required")
    codec = load_codec(checkpoints[codec_name] / "depth_codec")
    options = {"batch_size": 4, "num_steps": 5, "workers": 0}
    order = ReadingOrder(len(groups), 0)
    online = list(batches(groups, preparer, order, **options))
    stored = list(batches(groups, preparer, order, latents=latents, **options))
    compared = 0
    for first, second in zip(online, stored, strict=True):
        assert first.record_ids == second.record_ids
        assert torch.equal(first.input_ids, second.input_ids)
        for pixels, cached in zip(first.depth, second.depth, strict=True):
            assert cached.pixels is None
            assert cached.image_index.tolist() == pixels.image_index.tolist()
            torch.testing.assert_close(
                target_latents(codec, cached), codec.encode(pixels.pixels), atol=1e-6, rtol=1e-6
            )
            assert torch.equal(target_weight(codec, cached), codec.latent_weight(pixels.valid))
            compared += len(cached.valid)
    assert compared > 10


def test_training_with_stored_latents_gives_the_same_losses_and_opens_no_depth(
    tmp_path, annotated, checkpoints, monkeypatch
):
    stages = three_stages(steps=(1, 1, 2))
    config = micro_config(tmp_path, checkpoint=checkpoints["dc-ae"], stages=stages)
    train(replace(config, data=(annotated,), run=tmp_path / "online", latents="off"))

    def touched(*_, **__):
        raise AssertionError("depth was touched")

    monkeypatch.setattr("egem.data.prepare.decode_depth", touched)
    monkeypatch.setattr(DCAECodec, "encode", touched)
    monkeypatch.setattr(DCAECodec, "latent_weight", touched)
    train(replace(config, data=(annotated,), run=tmp_path / "stored", latents="required"))
    assert_close(numbers(tmp_path / "stored"), numbers(tmp_path / "online"), rel=1e-5)


def test_no_depth_column_is_read(annotated):
    groups = RecordGroups([annotated])
    assert all(record.depths == () for record in groups.for_training(with_depth=False)[1])
    assert groups[1][0].depths != ()


def test_a_batch_without_depth_gets_a_placeholder_of_latents(annotated, checkpoints):
    preparer, recipe = recipe_of(checkpoints["pixel"])
    groups = RecordGroups([annotated])
    latents = open_latents(groups, recipe, "auto")
    order = ReadingOrder(len(groups), 0, subset=[0])  # every third picture has no depth
    (batch,) = batches(groups, preparer, order, batch_size=1, num_steps=1, workers=0, latents=latents)
    (placeholder,) = batch.depth
    assert placeholder.weight.tolist() == [0]
    assert placeholder.latents.shape == (1, 16, 1, 1)


def test_half_precision(tmp_path, annotated, checkpoints):
    data = copied(annotated, tmp_path)
    shutil.rmtree(data / FOLDER)
    annotate_latents(LatentsConfig(data=data, checkpoint=checkpoints["pixel"], dtype="float16", device="cpu"))
    _, recipe = recipe_of(checkpoints["pixel"])
    exact, half = (open_latents(RecordGroups([folder]), recipe, "required") for folder in (annotated, data))
    for group in (1, 2):
        (one,), (other,) = exact[group], half[group]
        assert one.latents.dtype == other.latents.dtype == torch.float32
        assert not torch.equal(one.latents, other.latents)
        torch.testing.assert_close(other.latents, one.latents, rtol=2**-11, atol=1e-6)


def sharded(folder: Path, num_groups: int = 6) -> Path:
    """One group a shard."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, rows_per_shard=1) as writer:
        for number in range(num_groups):
            image = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            unit = 5.0 if number == 2 else 0.001  # metres that cannot be
            writer.add(
                Record(
                    id=f"{number}",
                    source="test",
                    category="spatial",
                    skill="word",
                    group=f"{number}",
                    images=(ImageFile(data=encode_png(image)),),
                    depths=(DepthFile(data=encode_depth(rng.uniform(1, 3, (32, 32)), 0.001), unit_m=unit),),
                    messages=(
                        Message(role="user", content="<image>?"),
                        Message(role="assistant", content="yes"),
                    ),
                    answer=Answer(kind="text", text="yes"),
                )
            )
    return folder


def test_what_is_done_is_kept_and_what_changed_is_done_again(tmp_path, checkpoints, monkeypatch):
    data = sharded(tmp_path / "records")
    config = LatentsConfig(
        data=data, checkpoint=checkpoints["pixel"], device="cpu", engine=EngineConfig(workers=2)
    )
    manifest = annotate_latents(config)
    assert [shard.maps for shard in manifest.shards] == [1, 1, 0, 1, 1, 1]
    assert [shard.unreadable for shard in manifest.shards] == [0, 0, 1, 0, 0, 0]
    folder = data / FOLDER / manifest.recipe.key
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    encoded = []
    original = PixelCodec.encode
    monkeypatch.setattr(
        PixelCodec, "encode", lambda self, pixels: encoded.append(1) or original(self, pixels)
    )
    (folder / "shard-00001.safetensors").unlink()
    (folder / "shard-00003.safetensors").write_bytes(before["shard-00003.safetensors"][:-40])
    annotate_latents(replace(config, engine=EngineConfig(workers=1)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(encoded) == 2
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used here"):
        annotate_latents(replace(config, device="cuda:99"))
    with pytest.raises(ConfigError, match="items_per_part has no meaning here"):
        replace(config, engine=EngineConfig(items_per_part=4))


def test_groups_with_impossible_depth_are_left_out_as_without_latents(tmp_path, checkpoints):
    data = sharded(tmp_path / "records")
    annotate_latents(LatentsConfig(data=data, checkpoint=checkpoints["pixel"], device="cpu"))
    preparer, recipe = recipe_of(checkpoints["pixel"])
    groups = RecordGroups([data])
    reasons = []
    for latents in (None, open_latents(groups, recipe, "auto")):
        order = ReadingOrder(len(groups), 0, shuffle=False)
        note = tmp_path / f"{len(reasons)}.jsonl"
        (batch,) = batches(
            groups,
            preparer,
            order,
            batch_size=6,
            num_steps=1,
            workers=0,
            latents=latents,
            max_bad_fraction=0.5,
            quarantine=note,
        )
        assert batch.record_ids == ("0", "1", "3", "4", "5")
        reasons.append(json.loads(note.read_text())["reason"])
    assert reasons[0] == reasons[1]
    assert "implausible" in reasons[0]


def test_latents_that_do_not_belong_are_refused(tmp_path, annotated, checkpoints):
    _, recipe = recipe_of(checkpoints["pixel"])
    other = write_checkpoint(tmp_path / "other", "dc-ae", seed=1)
    _, retrained = recipe_of(other)
    for wanted, message in (
        (
            retrained,
            rf"made with codec [0-9a-f]+ instead of {retrained.codec}; .*run `egem data annotate latents",
        ),
        (replace(recipe, depth=replace(recipe.depth, far_m=20.0)), "made with .*depth DepthPolicy"),
        (replace(recipe, max_pixels=1024), "max_pixels 16384 instead of 1024|made with codec"),
    ):
        with pytest.raises(RecordError, match=message):
            open_latents(RecordGroups([annotated]), wanted, "auto")
        assert open_latents(RecordGroups([annotated]), wanted, "off") is None


def test_a_shard_that_changed_is_refused(tmp_path, annotated, checkpoints):
    data = copied(annotated, tmp_path)
    shutil.rmtree(tmp_path / "records")
    write_records(tmp_path / "records", num_groups=12, seed=1)
    shutil.copytree(annotated / FOLDER, data / FOLDER)
    _, recipe = recipe_of(checkpoints["pixel"])
    with pytest.raises(RecordError, match=r"shard-00000.parquet has changed since its depth latents were"):
        open_latents(RecordGroups([data]), recipe, "auto")


def test_without_latents(tmp_path, annotated, checkpoints, caplog):
    data = copied(annotated, tmp_path)
    shutil.rmtree(data / FOLDER)
    _, recipe = recipe_of(checkpoints["pixel"])
    assert open_latents(RecordGroups([data]), recipe, "auto") is None
    with pytest.raises(RecordError, match="has no depth latents; run `egem data annotate latents --data"):
        open_latents(RecordGroups([data]), recipe, "required")
    assert open_latents(RecordGroups([data, annotated]), recipe, "auto") is None
    assert "has no depth latents, so none are used" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "garbage", "gone"])
def test_damaged_files_are_named(tmp_path, annotated, checkpoints, damage):
    data = copied(annotated, tmp_path)
    _, recipe = recipe_of(checkpoints["pixel"])
    path = data / FOLDER / recipe.key / "shard-00000.safetensors"
    data_of_file = path.read_bytes()
    path.write_bytes(b"\xff" * len(data_of_file) if damage == "garbage" else data_of_file[:-5000])
    if damage == "gone":
        path.unlink()
    with pytest.raises(RecordError, match=r"shard-00000.safetensors is (damaged|missing or truncated)"):
        _read_all(RecordGroups([data]), recipe)


def _read_all(groups: RecordGroups, recipe: LatentRecipe) -> None:
    latents = open_latents(groups, recipe, "auto")
    for group in range(len(groups)):
        latents[group]


def test_the_revision_of_a_codec_is_that_of_its_weights(tmp_path, checkpoints):
    codec = Path(shutil.copytree(checkpoints["dc-ae"] / "depth_codec", tmp_path / "codec"))
    revision = codec_revision(codec)
    (path,) = codec.glob("*.safetensors")
    weights = load_file(path)
    half = len(weights) // 2
    path.unlink()
    for number, names in enumerate((list(weights)[:half], list(weights)[half:])):
        save_file({name: weights[name] for name in names}, codec / f"part-{number}.safetensors")
    assert codec_revision(codec) == revision
    changed = {name: weights[name] for name in list(weights)[half:]}
    changed[list(weights)[-1]] = changed[list(weights)[-1]] + 1
    save_file(changed, codec / "part-1.safetensors")
    assert codec_revision(codec) != revision
