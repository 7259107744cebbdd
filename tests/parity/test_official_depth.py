"""A depth map drawn from an imported checkpoint against the released formulas, derived again from its state dict.

The second derivation uses transformers' and diffusers' own classes and schedulers, its own search for visual
tokens, and reads the released names itself: nothing of `egem` but the checkpoint writers takes part.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaTransformer2DModel
from safetensors.torch import load_file
from tests import hf_folders
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from egem.cli import main
from egem.evaluation.predictor import Predictor

GUIDANCE, STEPS, LONG_SIDE, FACTOR = 5.0, 30, 448, 32


class Released:
    """The released model, rebuilt from one state dict."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.state = load_file(folder / "model.safetensors")
        config = Qwen3VLConfig.from_dict(json.loads((folder / "config.json").read_text()))
        self.qwen = Qwen3VLForConditionalGeneration(config).eval()
        plain = {n: v for n, v in self.state.items() if n.startswith(("model.", "lm_head."))}
        missing, unexpected = self.qwen.load_state_dict(plain, strict=False)
        assert (missing, unexpected) == (["lm_head.weight"], [])
        self.qwen.tie_weights()
        self.sana = SanaTransformer2DModel(**hf_folders.sana_sizes()).eval()
        self.sana.load_state_dict(self.section("sana."))
        self.vae = AutoencoderDC(**hf_folders.vae_sizes()).eval()
        self.vae.load_state_dict(self.section("vae."))

    def section(self, prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): v for n, v in self.state.items() if n.startswith(prefix)}

    def connect(self, tokens: Tensor) -> Tensor:
        weights = self.section("diffusion_connector.")
        hidden = functional.linear(tokens, weights["0.weight"], weights["0.bias"])
        hidden = 0.5 * hidden * (1 + torch.tanh((2 / np.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
        hidden = functional.linear(hidden, weights["2.weight"], weights["2.bias"])
        return hidden / (hidden.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weights["3.weight"]

    def condition(self, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """States after the final norm, strictly between vision_start and vision_end; and the image's new size."""
        processor = Qwen2VLImageProcessorPil.from_pretrained(self.folder)
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        seen = processor(images=[image], return_tensors="pt")
        grid = seen["image_grid_thw"]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}]}], tokenize=False, add_generation_prompt=True
        )
        pad = "<|image_pad|>"
        count = int(grid.prod()) // processor.merge_size**2
        ids = tokenizer(text.replace(pad, pad * count), return_tensors="pt").input_ids
        states = self.qwen.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=seen["pixel_values"],
            image_grid_thw=grid,
            mm_token_type_ids=(ids == tokenizer.convert_tokens_to_ids(pad)).int(),
        ).last_hidden_state
        row = ids[0].tolist()
        start, end = (row.index(tokenizer.convert_tokens_to_ids(f"<|vision_{s}|>")) for s in ("start", "end"))
        return states[:, start + 1 : end], tuple(int(n) * processor.patch_size for n in grid[0, 1:])

    @torch.no_grad()
    def draw(self, image: np.ndarray, noise: Tensor) -> Tensor:
        """Colours in [0, 1]."""
        tokens, _ = self.condition(image)
        context = torch.cat([self.connect(torch.zeros_like(tokens)), self.connect(tokens)])
        scheduler = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / STEPS, STEPS))
        latents = noise
        for timestep in scheduler.timesteps:
            velocity = self.sana(
                hidden_states=torch.cat([latents, latents]),
                encoder_hidden_states=context,
                timestep=timestep.expand(2),
                return_dict=False,
            )[0]
            null, conditional = velocity.chunk(2)
            guided = null + GUIDANCE * (conditional - null)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        return (self.vae.decode(latents / 0.41407).sample / 2 + 0.5).clamp(0, 1)[0]


def released_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = LONG_SIDE / max(size)
    height, width = (max(FACTOR, int(side * scale) // FACTOR * FACTOR) for side in size)
    return height, width


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What the released code would read, and the checkpoint imported from it."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("official")
    backbone = hf_folders.write_backbone(path / "qwen")
    pipeline = hf_folders.write_pipeline(path / "sana")
    for command in (
        ["init", "--backbone", backbone, "--depth-head", pipeline, "--out", path / "gem"],
        ["export", path / "gem", "--format", "gem-official", "--out", path / "official"],
        ["import-official", path / "official", "--out", path / "imported"],
    ):
        main([str(word) for word in command])
    return path / "official", path / "imported"


@pytest.mark.parametrize("size", [(72, 128), (64, 64), (128, 96)])
def test_the_same_depth_is_drawn(folders: tuple[Path, Path], size: tuple[int, int]) -> None:
    official, imported = folders
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    released = Released(official)
    with torch.no_grad():
        height, width = released_size(released.condition(image)[1])
    assert max(height, width) == LONG_SIDE
    noise = torch.randn(4, height // FACTOR, width // FACTOR, generator=torch.Generator().manual_seed(1))
    expected = released.draw(image, noise[None])

    predictor = Predictor.from_checkpoint(imported, device="cpu")
    sample = predictor._look(image)
    drawn = predictor.model.sample_depth([sample], noise=[[noise]])[0][0]
    assert tuple(drawn.shape) == (3, height, width)
    torch.testing.assert_close((drawn + 1) / 2, expected, rtol=0, atol=2e-4)
    assert 0.05 < expected.std() < 0.45
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.5


def test_guidance_and_steps_count(folders: tuple[Path, Path]) -> None:
    """What agrees above would not agree with other settings."""
    predictor = Predictor.from_checkpoint(folders[1], device="cpu")
    config = predictor.model.config
    assert (config.guidance, config.sampling_steps, config.time_shift) == (GUIDANCE, STEPS, 1.0)
    sample = predictor._look(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise = [[torch.randn(4, 14, 14, generator=torch.Generator().manual_seed(1))]]
    default = predictor.model.sample_depth([sample], noise=noise)[0][0]
    for settings in ({"guidance": 4.5}, {"num_steps": 29}):
        other = predictor.model.sample_depth([sample], noise=noise, **settings)[0][0]
        assert (other - default).abs().max() > 2e-3, settings
