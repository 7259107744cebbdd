import pytest
import torch
from transformers import AutoTokenizer

from egem.core.errors import ConfigError
from egem.models.depth_codec import DCAECodec
from egem.models.gem import parameter_report
from egem.models.presets import PRESETS, build
from egem.models.tokenizer import FOLDER, SPECIAL_TOKENS, VOCABULARY_SIZE, special_id

PUBLISHED = {
    "gem-2b": {"backbone": 2_127_532_032, "connector": 10_033_920, "depth_head": 1_604_641_952},
    "gem-8b": {"backbone": 8_767_123_696, "connector": 14_752_512, "depth_head": 1_604_641_952},
}
TINY = {"backbone": 2_077_920, "connector": 33_152, "depth_head": 1_237_776}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_big_presets_have_the_published_sizes(preset: str) -> None:
    model = build(preset, device="meta")
    assert {name: total for name, (total, _) in parameter_report(model).items()} == PUBLISHED[preset]
    assert isinstance(model.depth_codec, DCAECodec)
    assert sum(p.numel() for p in model.depth_codec.autoencoder.parameters()) == 312_250_275
    assert (model.depth_codec.factor, model.depth_codec.latent_channels) == (32, 32)
    assert len(model.depth_head.sana.state_dict()) == 476
    assert len(model.depth_codec.autoencoder.state_dict()) == 375


def test_released_sampling_and_depth_size() -> None:
    for preset in PUBLISHED:
        config = PRESETS[preset].config
        assert (config.guidance, config.sampling_steps, config.condition_dropout) == (5.0, 30, 0.1)
        assert config.time_shift == 1.0
        policy = config.depth
        assert (policy.encoding, policy.long_side, policy.multiple) == ("spectral", 448, 32)


def test_tiny_size() -> None:
    assert {name: total for name, (total, _) in parameter_report(build("tiny")).items()} == TINY


def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = build("tiny", seed=1), build("tiny", seed=1), build("tiny", seed=2)
    assert torch.equal(torch.rand(3), expected)
    for (name, a), b, c in zip(
        first.named_parameters(), second.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
        if a.ndim > 1:
            assert not torch.equal(a, c), name


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'tny'\. Did you mean 'tiny'"):
        build("tny")


def test_special_ids_are_the_tokenizers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    assert len(tokenizer) == VOCABULARY_SIZE
    for token in SPECIAL_TOKENS:
        assert tokenizer.convert_tokens_to_ids(token) == special_id(token)
    assert tokenizer.eos_token_id in PRESETS["tiny"].stop_ids
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 100_000


def test_tokenizer_is_lossless_and_writes_digits_one_by_one() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    text = "Point to the red mug: [123, 45].\nnai\u0308ve \u4e2d 0.35 m  \t!"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text.replace("i\u0308", "\u00ef")  # NFC, as Qwen's
    assert [tokenizer.decode([i]) for i in tokenizer.encode("905")] == ["9", "0", "5"]
    assert len(tokenizer.encode(" red mug")) == 2


def test_training_the_tokenizer_is_deterministic() -> None:
    from egem.models.tokenizer import train_tokenizer

    texts = [f"the {color} {shape}" for color in ("red", "blue") for shape in ("mug", "bowl", "cube")] * 3
    first, second = train_tokenizer(texts, 300), train_tokenizer(iter(texts), 300)
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 300
    assert first.token_to_id("<|video_pad|>") == 299
