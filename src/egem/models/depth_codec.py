"""From encoded depth in [-1, 1] to latents and back. Codecs are frozen and hold no trainable parameter.

Two codecs behind one protocol: `PixelCodec` rearranges pixels, `DCAECodec` is diffusers' deep-compression
autoencoder. Latents are float32.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from egem.batch import DepthTargets
from egem.core.config import load_json, save_json
from egem.core.errors import CheckpointError
from egem.models.strict import load_strictly


@runtime_checkable
class DepthCodec(Protocol):
    """What the depth head needs of a codec."""

    channels: int
    """Of the encoded depth."""
    factor: int
    """Pixels per latent cell, along height and along width."""
    latent_channels: int

    def encode(
        self, pixels: Float[Tensor, "map channel height width"]
    ) -> Float[Tensor, "map latent_channel latent_height latent_width"]:
        """Pixels in [-1, 1] to latents of about unit variance."""
        ...

    def decode(
        self, latents: Float[Tensor, "map latent_channel latent_height latent_width"]
    ) -> Float[Tensor, "map channel height width"]:
        """Latents to pixels, clamped to [-1, 1]."""
        ...

    def latent_weight(
        self, valid: Bool[Tensor, "map height width"]
    ) -> Float[Tensor, "map weight_channel latent_height latent_width"]:
        """1 for latent values that valid readings determine, else 0; one channel may stand for all."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything `load_codec` needs."""
        ...


@dataclass(frozen=True, kw_only=True)
class PixelCodecConfig:
    """Pixel-unshuffle: latents = (pixels - shift) * scale, each factor x factor block in one cell."""

    channels: int = 1
    factor: int = 8
    scale: float = 1.0
    shift: float = 0.0


class PixelCodec:
    """Each block of pixels becomes the channels of one latent cell; exactly invertible, no weights."""

    def __init__(self, config: PixelCodecConfig):
        self.config = config
        self.channels = config.channels
        self.factor = config.factor
        self.latent_channels = config.channels * config.factor**2

    def encode(
        self, pixels: Float[Tensor, "map channel height width"]
    ) -> Float[Tensor, "map latent_channel latent_height latent_width"]:
        """Shift, scale, unshuffle."""
        return functional.pixel_unshuffle(
            (pixels.float() - self.config.shift) * self.config.scale, self.factor
        )

    def decode(
        self, latents: Float[Tensor, "map latent_channel latent_height latent_width"]
    ) -> Float[Tensor, "map channel height width"]:
        """The inverse of `encode`."""
        pixels = (
            functional.pixel_shuffle(latents.float(), self.factor) / self.config.scale + self.config.shift
        )
        return pixels.clamp(-1.0, 1.0)

    def latent_weight(
        self, valid: Bool[Tensor, "map height width"]
    ) -> Float[Tensor, "map weight_channel latent_height latent_width"]:
        """Exact: every latent value is one pixel."""
        weight = valid[:, None].expand(-1, self.channels, -1, -1).float()
        return functional.pixel_unshuffle(weight, self.factor)

    def save(self, folder: Path) -> None:
        """Only the configuration: there are no weights."""
        save_json(self.config, folder / "config.json")


class DCAECodec:
    """Deep-compression autoencoder (Chen et al. 2024, arXiv 2410.10733), frozen.

    Latents are multiplied by the configuration's scaling factor as Sana was trained. A latent cell counts
    when at least half of its block of pixels (32 x 32 for f32c32) is a reading: its receptive field is wider
    than the block, so no rule is exact, and missing readings were filled from their neighbours.
    """

    def __init__(self, autoencoder: AutoencoderDC):
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.channels = autoencoder.config["in_channels"]
        self.factor = 2 ** (len(autoencoder.config["encoder_block_out_channels"]) - 1)
        self.latent_channels = autoencoder.config["latent_channels"]
        self.scaling_factor = autoencoder.config["scaling_factor"]

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "map channel height width"]
    ) -> Float[Tensor, "map latent_channel latent_height latent_width"]:
        """Encoder's output times the scaling factor; in the autoencoder's own precision."""
        with torch.autocast(pixels.device.type, enabled=False):
            latents = self._on(pixels.device).encode(pixels.to(self.autoencoder.dtype), return_dict=False)[0]
        return latents.float() * self.scaling_factor

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "map latent_channel latent_height latent_width"]
    ) -> Float[Tensor, "map channel height width"]:
        """The decoder's picture, clamped."""
        scaled = (latents.float() / self.scaling_factor).to(self.autoencoder.dtype)
        with torch.autocast(latents.device.type, enabled=False):
            pixels = self._on(latents.device).decode(scaled, return_dict=False)[0]
        return pixels.float().clamp(-1.0, 1.0)

    def latent_weight(
        self, valid: Bool[Tensor, "map height width"]
    ) -> Float[Tensor, "map weight_channel latent_height latent_width"]:
        """1 where at least half of the cell's block of pixels is a reading."""
        fraction = functional.avg_pool2d(valid[:, None].float(), self.factor)
        return (fraction >= 0.5).float()

    def save(self, folder: Path) -> None:
        """In diffusers' own format."""
        self.autoencoder.save_pretrained(folder)

    def _on(self, device: torch.device) -> AutoencoderDC:
        # Not a submodule, so `GEM.to` does not reach it: it follows its input instead.
        if self.autoencoder.device != device:
            self.autoencoder.to(device)  # pyright: ignore[reportArgumentType]
        return self.autoencoder


def target_latents(codec: DepthCodec, targets: DepthTargets) -> Float[Tensor, "map latent_channel _ _"]:
    """The latents to generate: those that came with the batch, else the codec's."""
    if targets.latents is not None:
        return targets.latents.float()
    assert targets.pixels is not None
    return codec.encode(targets.pixels)


def target_weight(codec: DepthCodec, targets: DepthTargets) -> Float[Tensor, "map weight_channel _ _"]:
    """1 for latent values that valid readings determine, else 0."""
    return targets.valid.float() if targets.latents is not None else codec.latent_weight(targets.valid)


def target_shape(codec: DepthCodec, targets: DepthTargets) -> tuple[int, int, int, int]:
    """Shape of `target_latents`, known without computing them."""
    factor = 1 if targets.latents is not None else codec.factor
    height, width = targets.valid.shape[-2:]
    return len(targets.valid), codec.latent_channels, height // factor, width // factor


def load_codec(folder: Path) -> DepthCodec:
    """Read what a codec's `save` wrote; which codec it is shows in its config.json.

    Raises:
        CheckpointError: the folder holds neither codec, or its weights do not fit.
    """
    try:
        values = json.loads((folder / "config.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder} holds no readable config.json of a depth codec: {error}.") from None
    if values.get("_class_name") == "AutoencoderDC":
        return DCAECodec(load_strictly(AutoencoderDC, folder, dtype=None))
    return PixelCodec(load_json(PixelCodecConfig, folder / "config.json"))
