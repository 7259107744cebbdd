from pathlib import Path

import pytest
import torch
from tests import tiny

from egem.core.errors import CheckpointError
from egem.models.depth_codec import DCAECodec, PixelCodec, PixelCodecConfig, load_codec


@pytest.fixture
def dcae() -> DCAECodec:
    torch.set_num_threads(1)
    codec = tiny.build_micro("dc-ae").depth_codec
    assert isinstance(codec, DCAECodec)
    return codec


def test_pixel_codec_is_exactly_invertible() -> None:
    codec = PixelCodec(PixelCodecConfig(channels=1, factor=4, scale=3.0, shift=-0.2))
    pixels = torch.rand(2, 1, 8, 12) * 2 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (2, 16, 2, 3)
    torch.testing.assert_close(codec.decode(latents), pixels)
    assert latents[0, 0, 0, 0].item() == pytest.approx((pixels[0, 0, 0, 0].item() + 0.2) * 3)
    assert codec.decode(torch.full((1, 16, 1, 1), 99.0)).max() == 1.0


def test_pixel_codec_weights_each_pixel_where_it_goes() -> None:
    codec = PixelCodec(PixelCodecConfig(channels=3, factor=2))
    valid = torch.rand(2, 4, 6) < 0.5
    weight = codec.latent_weight(valid)
    assert weight.shape == (2, 12, 2, 3)
    marked = codec.encode(valid[:, None].expand(-1, 3, -1, -1).float())
    assert torch.equal(weight, marked)


def test_dcae_encodes_with_the_scaling_factor_and_in_float32(dcae: DCAECodec) -> None:
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    expected = dcae.autoencoder.encode(pixels).latent * 0.5
    latents = dcae.encode(pixels)
    torch.testing.assert_close(latents, expected)
    assert latents.shape == (2, 4, 4, 6)
    assert (dcae.factor, dcae.channels, dcae.latent_channels) == (4, 3, 4)
    decoded = dcae.decode(latents)
    torch.testing.assert_close(decoded, dcae.autoencoder.decode(latents / 0.5).sample.clamp(-1, 1))
    dcae.autoencoder.to(torch.bfloat16)
    assert dcae.encode(pixels).dtype == torch.float32


def test_dcae_is_frozen(dcae: DCAECodec) -> None:
    assert not any(p.requires_grad for p in dcae.autoencoder.parameters())
    assert not dcae.autoencoder.training
    assert not dcae.encode(torch.zeros(1, 3, 8, 8)).requires_grad


def test_dcae_ignores_autocast(dcae: DCAECodec) -> None:
    pixels = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = dcae.encode(pixels)
    assert torch.equal(inside, dcae.encode(pixels))


def test_dcae_counts_a_cell_when_half_of_its_block_is_read(dcae: DCAECodec) -> None:
    valid = torch.zeros(1, 4, 8, dtype=torch.bool)
    valid[0, :2, :4] = True  # exactly half of the first block
    valid[0, :2, 4:7] = True  # six of sixteen of the second
    assert dcae.latent_weight(valid).tolist() == [[[[1.0, 0.0]]]]


def test_save_and_load(dcae: DCAECodec, tmp_path: Path) -> None:
    config = PixelCodecConfig(channels=1, factor=8, scale=2.5, shift=0.1)
    for name in ("pixel", "dcae"):
        (tmp_path / name).mkdir()
    PixelCodec(config).save(tmp_path / "pixel")
    loaded = load_codec(tmp_path / "pixel")
    assert isinstance(loaded, PixelCodec)
    assert loaded.config == config
    dcae.save(tmp_path / "dcae")
    again = load_codec(tmp_path / "dcae")
    pixels = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(again.encode(pixels), dcae.encode(pixels))


def test_no_codec(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no readable config\.json of a depth codec"):
        load_codec(tmp_path)
