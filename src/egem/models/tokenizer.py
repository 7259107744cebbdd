"""The tiny preset's tokenizer: a small byte-level BPE in Qwen2's format.

`python -m egem.models.tokenizer` trains it again on the data engine's questions, with the same result every
time. Pre-tokenisation is Qwen's: digits one by one, words with the space before them.
"""

import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from egem.core.files import write_atomically

logger = logging.getLogger(__name__)

VOCABULARY_SIZE = 1024
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""The last ids of the vocabulary, in this order; the names are Qwen's."""

FOLDER = Path(__file__).parent.parent / "assets" / "tiny_tokenizer"

_NUM_TEXTS = 10_000

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenisation; part of the format, transformers rebuilds the same one."""


def special_id(token: str) -> int:
    """Id of a special token in the tiny vocabulary."""
    return VOCABULARY_SIZE - len(SPECIAL_TOKENS) + SPECIAL_TOKENS.index(token)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> Tokenizer:
    """Train on some text; the result depends on nothing else.

    Args:
        texts: as many as wanted; rare pairs are merged too until the vocabulary is full.
        vocabulary_size: including the 256 bytes and the special tokens, which come last.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    words = tokenizer.get_vocab_size()
    unused = [f"<|unused_{index}|>" for index in range(vocabulary_size - len(SPECIAL_TOKENS) - words)]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [*unused, *SPECIAL_TOKENS]])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as Qwen's checkpoints have them."""
    values = json.loads(tokenizer.to_str())
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in values["added_tokens"]
        },
    }
    for name, content in (("tokenizer.json", values), ("tokenizer_config.json", config)):
        write_atomically(folder / name, (json.dumps(content, ensure_ascii=True) + "\n").encode())


def processor_files(folder: Path = FOLDER) -> dict[str, bytes]:
    """Tokenizer, chat template and image processor files of a folder, by name."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in (".json", ".jinja")
    }


def training_texts() -> Iterator[str]:
    """Questions and answers of the data engine, names of all things of the embedded world, the chat's words."""
    from egem.data_engine import question_corpus
    from egem.worlds.tabletop.catalog import COLORS, MATERIALS, SIZES
    from egem.worlds.tabletop.shapes import SHAPES

    yield from question_corpus(0, num=_NUM_TEXTS)
    for shape, color, adjective in itertools.product(SHAPES, COLORS, (*SIZES, *MATERIALS)):
        yield f"Is the {adjective} {color} {shape} there? {adjective} {color} {shape}"
    for role in ("system", "user", "assistant"):
        yield from [f"{role}\n", "<0.5 seconds>", "1.25 m, 12 cm"] * 10


def main() -> None:
    """Train the shipped tokenizer again."""
    tokenizer = train_tokenizer(training_texts())
    save_tokenizer(tokenizer, FOLDER)
    logger.info("%d tokens in %s", tokenizer.get_vocab_size(), FOLDER)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
