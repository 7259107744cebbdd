import errno
import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests import tiny
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from egem.core.errors import CheckpointError, ConfigError, EgemError
from egem.models.gem import GEM
from egem.models.pretrained import load

PROCESSOR_FILES = {
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "preprocessor_config.json",
}


@pytest.fixture(params=["pixel", "dc-ae"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return tiny.write_checkpoint(tmp_path / "checkpoint", request.param)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(path: Path, name: str, value: torch.Tensor | None) -> None:
    """Replace, add or (None) remove a tensor of a safetensors file."""
    tensors = load_file(path)
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), path, metadata={"format": "pt"})


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    model = GEM.from_pretrained(folder)
    assert not model.training
    model.save_pretrained(tmp_path / "again")
    again = GEM.from_pretrained(tmp_path / "again")
    assert again.config == model.config
    assert set(again.processor_files) == PROCESSOR_FILES
    state = model.state_dict()
    assert state.keys() == again.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in again.state_dict().items())
    batch = tiny.random_batch(2, channels=model.depth_codec.channels)
    losses = [m(batch, generator=torch.Generator().manual_seed(0)) for m in (model, again)]
    assert losses[0].depth_sum == losses[1].depth_sum
    assert losses[0].language_sum == losses[1].language_sum
    model.save_pretrained(tmp_path / "once more")
    files = contents(tmp_path / "once more")
    assert {path.suffix for path in files} == {".json", ".safetensors", ".jinja"}
    assert files == contents(tmp_path / "again")
    assert str(tmp_path).encode() not in b"".join(files.values())


def test_backbone_loads_in_transformers_alone(folder: Path) -> None:
    model = GEM.from_pretrained(folder)
    qwen, found = Qwen3VLForConditionalGeneration.from_pretrained(
        folder / "backbone", output_loading_info=True
    )
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert qwen.config.architectures == ["Qwen3VLForConditionalGeneration"]
    assert type(qwen.model.visual.patch_embed).__module__.startswith("transformers")
    batch = tiny.random_batch(1, image_sizes=((32, 48), (32, 32)))
    with torch.no_grad():
        logits = qwen(
            input_ids=batch.input_ids,
            pixel_values=batch.patches,
            image_grid_thw=batch.image_grid,
            mm_token_type_ids=(batch.input_ids == tiny.IMAGE_PAD).int(),
        ).logits
        torch.testing.assert_close(model.backbone.logits(model.backbone(batch)), logits, rtol=1e-4, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(folder / "backbone")
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How far?"}]},
        {"role": "assistant", "content": "1.2 m"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How far?<|im_end|>\n"
        "<|im_start|>assistant\n1.2 m<|im_end|>\n"
    )
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder / "backbone")
    assert (processor.patch_size, processor.merge_size, processor.temporal_patch_size) == (8, 2, 1)


def test_depth_parts_load_in_diffusers_alone(folder: Path) -> None:
    model = GEM.from_pretrained(folder)
    sana = SanaTransformer2DModel.from_pretrained(folder / "depth_head")
    for key, value in model.depth_head.sana.state_dict().items():
        assert torch.equal(sana.state_dict()[key], value)
    if model.config.codec == "dc-ae":
        AutoencoderDC.from_pretrained(folder / "depth_codec")


def test_dtype(folder: Path, tmp_path: Path) -> None:
    half = GEM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    half.save_pretrained(tmp_path / "half")
    assert {p.dtype for p in GEM.from_pretrained(tmp_path / "half").parameters()} == {torch.bfloat16}
    losses = half(tiny.random_batch(1, channels=half.depth_codec.channels))
    assert losses.depth_sum.dtype == torch.float32
    assert losses.depth_sum.isfinite()


@pytest.mark.parametrize(
    ("file", "tensor", "value", "message"),
    [
        ("connector.safetensors", "layers.0.bias", None, r"missing: layers\.0\.bias"),
        ("connector.safetensors", "layers.9.bias", torch.zeros(2), r"unknown: layers\.9\.bias"),
        ("connector.safetensors", "layers.0.bias", torch.zeros(7), r"layers\.0\.bias is \(7,\), not \(24,\)"),
        ("backbone/model.safetensors", "model.language_model.norm.weight", None, r"missing: .*norm\.weight"),
        ("backbone/model.safetensors", "model.surplus", torch.zeros(2), r"unknown: model\.surplus"),
        (
            "backbone/model.safetensors",
            "model.language_model.norm.weight",
            torch.zeros(5),
            r"\(5,\), not \(32,\)",
        ),
        ("depth_head/diffusion_pytorch_model.safetensors", "proj_out.bias", None, r"missing: proj_out\.bias"),
        ("depth_head/diffusion_pytorch_model.safetensors", "surplus", torch.zeros(2), "unknown: surplus"),
        ("depth_head/diffusion_pytorch_model.safetensors", "proj_out.bias", torch.zeros(5), r"\(5,\)"),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, file: str, tensor: str, value: torch.Tensor | None, message: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    change(folder / file, tensor, value)
    with pytest.raises(CheckpointError, match=message) as caught:
        GEM.from_pretrained(folder)
    assert file.split("/")[0] in str(caught.value)


def test_another_preset(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    message = "is a checkpoint of preset 'tiny', but 'gem-2b' is needed"
    with pytest.raises(CheckpointError, match=message):
        load(folder, preset="gem-2b")
    assert load(folder, preset="tiny").config.preset == "tiny"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "is not a GEM checkpoint"),
        ("connector.safetensors", r"connector\.safetensors cannot be read"),
        ("backbone/model.safetensors", r"backbone holds no \.safetensors file"),
        ("depth_head/config.json", r"depth_head holds no config\.json"),
        ("depth_codec/config.json", r"depth_codec holds no readable config\.json"),
    ],
)
def test_incomplete_folder(tmp_path: Path, missing: str, message: str) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=message):
        GEM.from_pretrained(folder)


def test_torn_weights(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    for file in ("connector.safetensors", "backbone/model.safetensors"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match=file.split("/")[0]):
            GEM.from_pretrained(folder)
        (folder / file).write_bytes(content)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a GEM checkpoint"):
        GEM.from_pretrained(tmp_path / "nothing")


def test_wrong_codec(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"codec": "dc-ae"}))
    with pytest.raises(CheckpointError, match=r"config\.json says codec 'dc-ae', depth_codec/ holds another"):
        GEM.from_pretrained(folder)


def test_unknown_key_in_config(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"guidanc": 2.0}))
    with pytest.raises(CheckpointError, match="Did you mean 'guidance'"):
        GEM.from_pretrained(folder)


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "checkpoint")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        tiny.write_checkpoint(folder, seed=1)
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("egem.models.pretrained.save_file", SafetensorError("I/O error: No space left (os error 28)")),
        ("egem.models.depth_codec.save_json", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, error: Exception) -> None:
    """Safetensors has an error class of its own; the message is the one it gives on a full tmpfs."""

    def full(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(target, full)
    with pytest.raises(EgemError, match="no space left while writing"):
        tiny.write_checkpoint(tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []
