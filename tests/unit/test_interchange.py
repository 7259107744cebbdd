"""Checkpoints from and to the layouts of transformers, diffusers and the released GEM."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import hf_folders, tiny
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from egem.cli import main
from egem.core.errors import CheckpointError, ConfigError
from egem.evaluation.predictor import Predictor
from egem.models.gem import GEM
from egem.models.interchange.assemble import assemble
from egem.models.interchange.checkpoint import read_checkpoint
from egem.models.interchange.huggingface import read_parts
from egem.models.interchange.official import SECTIONS, import_official
from egem.models.interchange.parts import preset_of
from egem.models.interchange.tensors import in_memory, read_folder, write_folder
from egem.models.presets import PRESETS, build
from egem.records import IMAGE_MARK, Message


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor below a folder, by the path of its folder and its name."""
    found: dict[str, Tensor] = {}
    for path in folder.rglob("*.safetensors"):
        part = "" if path.parent == folder else f"{path.parent.relative_to(folder)}/"
        names = {f"{part}{name}": value for name, value in load_file(path).items()}
        assert not names.keys() & found.keys()
        found |= names
    return found


def require_identical(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        other = second[name]
        assert value.dtype == other.dtype, name
        assert torch.equal(value.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)), name


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbones `tied` and `untied`, and a `pipeline`; the two latter sharded and in bfloat16."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sources")
    hf_folders.write_backbone(folder / "tied")
    hf_folders.write_backbone(folder / "untied", tied=False, sharded=True, dtype=torch.bfloat16)
    hf_folders.write_pipeline(folder / "pipeline", sharded=True, dtype=torch.bfloat16)
    return folder


@pytest.fixture(scope="module", params=["tied", "untied"])
def chain(request: pytest.FixtureRequest, sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hugging Face -> gem -> official -> again -> qwen, by the command line."""
    path = tmp_path_factory.mktemp(request.param)
    backbone, pipeline = sources / request.param, sources / "pipeline"
    (path / "backbone").symlink_to(backbone)
    parts = ["--backbone", backbone, "--depth-head", pipeline / "transformer", "--codec", pipeline / "vae"]
    for command in (
        ["init", *parts, "--out", path / "gem", "--seed", "3"],
        ["export", path / "gem", "--format", "gem-official", "--out", path / "official"],
        ["import-official", path / "official", "--out", path / "again"],
        ["export", path / "again", "--format", "qwen3-vl", "--out", path / "qwen"],
        ["export", path / "again", "--format", "gem-official", "--out", path / "official again"],
    ):
        main([str(word) for word in command])
    return path


def test_nothing_changes_on_the_way(chain: Path, sources: Path) -> None:
    gem = tensors_of(chain / "gem")
    require_identical(gem, tensors_of(chain / "again"))
    require_identical(tensors_of(chain / "official"), tensors_of(chain / "official again"))
    require_identical(tensors_of(chain / "backbone"), tensors_of(chain / "qwen"))
    stored = {f"backbone/{name}": value for name, value in tensors_of(chain / "backbone").items()}
    for part, folder in (("depth_head", "transformer"), ("depth_codec", "vae")):
        for name, value in tensors_of(sources / "pipeline" / folder).items():
            stored[f"{part}/{name}"] = value
    connector = {name for name in gem if name.startswith("layers.")}
    require_identical({name: value for name, value in gem.items() if name not in connector}, stored)
    assert len(connector) == 5
    for name in ("tokenizer.json", "generation_config.json", "preprocessor_config.json"):
        content = (chain / "backbone" / name).read_bytes()
        for folder in (chain / "gem" / "backbone", chain / "official", chain / "qwen"):
            assert (folder / name).read_bytes() == content
    for first, second in (("gem", "again"), ("official", "official again")):
        for path in (chain / first).rglob("*.json"):
            assert path.read_bytes() == (chain / second / path.relative_to(chain / first)).read_bytes()


def test_released_names(chain: Path) -> None:
    names = set(tensors_of(chain / "official"))
    assert {name for name in names if name.startswith("diffusion_connector.")} == {
        f"diffusion_connector.{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias", "3.weight")
    }
    assert all(name.startswith(tuple(section.released for section in SECTIONS)) for name in names)
    assert {
        "sana.proj_out.bias",
        "vae.encoder.conv_in.weight",
        "model.visual.patch_embed.proj.weight",
    } <= names
    assert "model.language_model.norm.weight" in names
    assert ("lm_head.weight" in names) == ("untied" in chain.name)
    config = json.loads((chain / "official" / "config.json").read_text())
    assert config["architectures"] == ["GEMForConditionalGeneration"]
    assert config["model_type"] == "qwen3_vl"
    config = json.loads((chain / "qwen" / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]


def test_the_checkpoint_is_the_released_configuration(chain: Path) -> None:
    model = GEM.from_pretrained(chain / "gem")
    assert model.config.preset == "custom"
    released = PRESETS["gem-2b"].config
    for name in ("depth", "codec", "guidance", "sampling_steps", "time_shift", "condition_dropout"):
        assert getattr(model.config, name) == getattr(released, name)
    dtype = torch.bfloat16 if "untied" in chain.name else torch.float32
    assert {p.dtype for p in model.backbone.parameters()} == {dtype}
    assert {p.dtype for p in model.connector.parameters()} == {dtype}


def test_transformers_alone_generates_the_same_tokens(chain: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    question = "What is left of the mug?"
    predictor = Predictor.from_checkpoint(chain / "again", device="cpu", dtype=torch.float32)
    sample = predictor.preparer.prompt([Message(role="user", content=IMAGE_MARK + question)], [image])
    ours = predictor.model.generate_text([sample], max_new_tokens=12)[0]
    assert len(set(ours)) > 1
    for folder in (chain / "again" / "backbone", chain / "qwen"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        qwen = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        seen = processor(images=[image], return_tensors="pt")
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pad = "<|image_pad|>"
        count = int(seen["image_grid_thw"].prod()) // processor.merge_size**2
        ids = tokenizer(text.replace(pad, pad * count), return_tensors="pt").input_ids
        assert ids[0].tolist() == sample.input_ids.tolist()
        theirs = qwen.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == tokenizer.convert_tokens_to_ids(pad)).int(),
            **seen,
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=tiny.IM_END),
        )[0, ids.shape[1] :].tolist()
        assert [token for token in theirs if token != tiny.IM_END] == ours


def test_the_connector_depends_on_the_seed_alone(sources: Path) -> None:
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)
        before = torch.random.get_rng_state()
        pipeline = str(sources / "pipeline")
        parts = read_parts(str(sources / "tied"), pipeline, pipeline, seed=seed)
        assert torch.equal(before, torch.random.get_rng_state())
        drawn.append({name: tensor.load() for name, tensor in parts.connector.tensors.items()})
    require_identical(drawn[0], drawn[1])
    assert not torch.equal(drawn[0]["layers.0.weight"], drawn[2]["layers.0.weight"])


def test_a_preset_is_recognised_by_its_tensors() -> None:
    assert preset_of(build("gem-2b", device="meta")) == "gem-2b"
    assert preset_of(build("tiny", device="meta")) == "tiny"
    assert preset_of(tiny.build_micro()) == "custom"


@pytest.fixture(scope="module")
def pristine(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in `gem`, and the same in `official`."""
    path = tmp_path_factory.mktemp("pristine")
    pipeline = str(sources / "pipeline")
    assemble(path / "gem", backbone=str(sources / "tied"), depth_head=pipeline, codec=pipeline, seed=0)
    main(["export", str(path / "gem"), "--format", "gem-official", "--out", str(path / "official")])
    return path


@pytest.fixture
def official(pristine: Path, tmp_path: Path) -> Path:
    """A released folder that a test may change."""
    shutil.copytree(pristine / "official", tmp_path / "official")
    return tmp_path / "official"


def test_a_torch_file_is_read_as_tensors_only(official: Path, pristine: Path, tmp_path: Path) -> None:
    state = load_file(official / "model.safetensors")
    (official / "model.safetensors").unlink()
    state["lm_head.weight"] = state[
        "model.language_model.embed_tokens.weight"
    ]  # one storage, as torch saves it
    torch.save(state, official / "pytorch_model.bin")
    import_official(str(official), tmp_path / "again")
    require_identical(tensors_of(tmp_path / "again"), tensors_of(pristine / "gem"))
    import_official(str(official / "pytorch_model.bin"), tmp_path / "file")
    require_identical(tensors_of(tmp_path / "file"), tensors_of(pristine / "gem"))


def test_code_in_a_torch_file_is_not_run(official: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    (official / "model.safetensors").unlink()
    torch.save({"model.x": Trap()}, official / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read as plain tensors"):
        import_official(str(official), tmp_path / "again")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "again").exists()


def test_a_weight_file_alone_takes_its_parts_from_elsewhere(
    official: Path, pristine: Path, sources: Path, tmp_path: Path
) -> None:
    """Depth parts only, as the released robot training saves them: the rest comes from the options."""
    state = load_file(official / "model.safetensors")
    kept = {
        name: value for name, value in state.items() if name.startswith(("sana.", "diffusion_connector."))
    }
    (tmp_path / "alone").mkdir()
    torch.save(kept, tmp_path / "alone" / "depth_expert.pt")
    pipeline = str(sources / "pipeline")
    options = {"backbone": str(sources / "tied"), "depth_head": pipeline, "codec": pipeline}
    source = str(tmp_path / "alone" / "depth_expert.pt")
    _, findings = import_official(source, tmp_path / "again", **options)
    require_identical(tensors_of(tmp_path / "again"), tensors_of(pristine / "gem"))
    assert findings.identical
    for left_out, message in (
        ("backbone", "no config.json beside .* with --backbone"),
        ("codec", "no vae.* tensors; name an AutoencoderDC with --codec"),
    ):
        with pytest.raises(CheckpointError, match=message):
            import_official(source, tmp_path / "x", **{k: v for k, v in options.items() if k != left_out})


def test_a_tied_head_that_differs_is_refused(official: Path, pristine: Path, tmp_path: Path) -> None:
    state = load_file(official / "model.safetensors")
    head = state["model.language_model.embed_tokens.weight"].clone()
    save_file(state | {"lm_head.weight": head}, official / "model.safetensors")
    import_official(str(official), tmp_path / "copy")
    require_identical(tensors_of(tmp_path / "copy"), tensors_of(pristine / "gem"))
    head[0, 0] += 1
    save_file(state | {"lm_head.weight": head}, official / "model.safetensors")
    with pytest.raises(CheckpointError, match="but the two differ"):
        import_official(str(official), tmp_path / "other")


def test_what_the_released_code_cannot_do_is_not_exported(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path / "pixel")
    words = ["export", str(tmp_path / "pixel"), "--format", "gem-official", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    main([*words[:3], "qwen3-vl", *words[4:]])
    require_identical(tensors_of(tmp_path / "o"), tensors_of(tmp_path / "pixel" / "backbone"))
    parts, model = read_checkpoint(tmp_path / "pixel")
    assert parts.depth_codec.tensors == {}
    assert next(model.parameters()).device.type == "meta"


def test_shards(tmp_path: Path) -> None:
    tensors = {f"t{n}": torch.randn(10) for n in range(5)}
    table = {name: in_memory(value) for name, value in tensors.items()}
    write_folder(tmp_path, "model", table, shard_bytes=100)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [
        *(f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)),
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    require_identical({n: t.load() for n, t in read_folder(tmp_path, "model").items()}, tensors)
    shutil.copy(tmp_path / files[0], tmp_path / files[1])
    with pytest.raises(CheckpointError, match=r"disagree about t0"):
        read_folder(tmp_path, "model")
    (tmp_path / files[1]).unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002-of-00003\.safetensors, 1 of 3"):
        read_folder(tmp_path, "model")


def test_variants(tmp_path: Path) -> None:
    one = {"a": torch.ones(2, dtype=torch.float16)}
    save_file(one, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    table = read_folder(tmp_path, "diffusion_pytorch_model")
    require_identical({name: tensor.load() for name, tensor in table.items()}, one)
    save_file(one, tmp_path / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(CheckpointError, match="several variants"):
        read_folder(tmp_path, "diffusion_pytorch_model")


def test_a_taken_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="exists already"):
        assemble(tmp_path, backbone="no/where", depth_head="no/where", codec="no/where", seed=0)
