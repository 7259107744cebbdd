"""Conversations to token ids in Qwen3-VL's chat template, and the positions its rotary embedding uses.

The template's pieces are put together here, one by one, so that it is known exactly which tokens the
assistant speaks; labels are never found by searching for token ids. Text is tokenised by a copy of the
tokenizer that knows no special tokens, so what a user types can never become a turn or an image. There is no
default system prompt, as in Qwen3-VL. White space around an image mark is dropped, as in the released code.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from egem.batch import IGNORE_LABEL
from egem.core.errors import CheckpointError, RecordError
from egem.records import IMAGE_MARK, Message

_CACHED_TEXTS = 50_000
_LONGEST_CACHED_TEXT = 512


class ChatTokenizer:
    """Tokenises conversations about images.

    Args:
        definition: content of a `tokenizer.json` with Qwen's special tokens.

    Raises:
        CheckpointError: not a tokenizer, or a special token is missing.
    """

    def __init__(self, definition: str) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(definition)
            self._plain = Tokenizer.from_str(_without_special_tokens(definition))
        except Exception as error:
            raise CheckpointError(f"tokenizer.json cannot be read ({error}); copy it again.") from error
        self.im_start_id = self._special("<|im_start|>")
        self.im_end_id = self._special("<|im_end|>")
        self.vision_start_id = self._special("<|vision_start|>")
        self.vision_end_id = self._special("<|vision_end|>")
        self.image_token_id = self._special("<|image_pad|>")
        self.pad_id = self._special("<|endoftext|>")
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTokenizer":
        """Read the tokenizer of a Qwen3-VL checkpoint (its `tokenizer.json`).

        Raises:
            CheckpointError: there is none, or it is not Qwen's.
        """
        path = Path(folder) / "tokenizer.json"
        try:
            definition = path.read_text(encoding="utf-8")
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read: {error.strerror}; a tokenizer was expected."
            ) from None
        return cls(definition)

    def encode(
        self,
        messages: Sequence[Message],
        image_token_counts: Sequence[int],
        *,
        timestamps: Sequence[float] | None = None,
    ) -> tuple[Int[np.ndarray, "token"], Int[np.ndarray, "token"]]:
        """A conversation with its answers, for training.

        Args:
            messages: turns; each `<image>` mark of a user message stands for the next image.
            image_token_counts: visual tokens of each image.
            timestamps: seconds of each image, where the images are frames of a video.

        Returns:
            Token ids, and labels: the id where the assistant speaks (its <|im_end|> included), IGNORE_LABEL
            elsewhere.

        Raises:
            RecordError: marks and images do not match, or a mark outside a user message.
        """
        return self._encode(messages, image_token_counts, timestamps, prompt=False)

    def encode_prompt(
        self,
        messages: Sequence[Message],
        image_token_counts: Sequence[int],
        *,
        timestamps: Sequence[float] | None = None,
    ) -> Int[np.ndarray, "token"]:
        """A conversation that the assistant is to continue: like `encode`, then the assistant's header."""
        return self._encode(messages, image_token_counts, timestamps, prompt=True)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens are left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def _encode(
        self,
        messages: Sequence[Message],
        image_token_counts: Sequence[int],
        timestamps: Sequence[float] | None,
        *,
        prompt: bool,
    ) -> tuple[Int[np.ndarray, "token"], Int[np.ndarray, "token"]]:
        marks = sum(message.content.count(IMAGE_MARK) for message in messages)
        if marks != len(image_token_counts):
            raise RecordError(
                f"{marks} {IMAGE_MARK} marks for {len(image_token_counts)} images; one mark each is needed."
            )
        ids: list[int] = []
        labels: list[int] = []
        next_image = 0
        newline = self._text("\n")
        for message in messages:
            if message.role == "assistant":
                # The header is tokenised on its own, as it will be when the model is asked to answer.
                ids += [self.im_start_id, *self._text("assistant\n")]
                labels += [IGNORE_LABEL] * (len(ids) - len(labels))
                if IMAGE_MARK in message.content:
                    raise RecordError(f"an {IMAGE_MARK} mark in an assistant message; images are the user's.")
                ids += [*self._text(message.content), self.im_end_id]
                labels += ids[len(labels) :]
                ids += newline
                continue
            texts = message.content.split(IMAGE_MARK)
            if len(texts) > 1:
                if message.role != "user":
                    raise RecordError(
                        f"an {IMAGE_MARK} mark in a {message.role} message; images are the user's."
                    )
                texts = [text.strip() for text in texts]
            ids.append(self.im_start_id)
            text = f"{message.role}\n{texts[0]}"
            for following in texts[1:]:
                if timestamps is not None:
                    text += f"<{timestamps[next_image]:.1f} seconds>"
                ids += [*self._text(text), self.vision_start_id]
                ids += [self.image_token_id] * image_token_counts[next_image]
                ids.append(self.vision_end_id)
                text, next_image = following, next_image + 1
            ids += [*self._text(text), self.im_end_id, *newline]
        if prompt:
            ids += [self.im_start_id, *self._text("assistant\n")]
        labels += [IGNORE_LABEL] * (len(ids) - len(labels))
        return np.array(ids, np.int64), np.array(labels, np.int64)

    def _text(self, text: str) -> list[int]:
        """Ids of plain text. Questions and answers repeat, so the short ones are kept."""
        ids = self._cache.get(text)
        if ids is None:
            ids = self._plain.encode(text, add_special_tokens=False).ids
            if len(text) <= _LONGEST_CACHED_TEXT:
                if len(self._cache) >= _CACHED_TEXTS:
                    self._cache.clear()
                self._cache[text] = ids
        return ids

    def _special(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise CheckpointError(f"the tokenizer has no {token}; it is not a Qwen3-VL tokenizer.")
        return index


def positions(
    input_ids: Int[np.ndarray, "token"],
    image_grid: Int[np.ndarray, "image 3"],
    image_token_id: int,
    merge_size: int,
) -> Int[np.ndarray, "3 token"]:
    """Time, height and width position of each token, as Qwen3-VL's `get_rope_index` gives them.

    Text counts up in all three. An image's tokens share the time at which it begins, and are spread over
    height and width from there; what follows goes on after the longer of its sides.

    Args:
        input_ids: one sequence without padding.
        image_grid: time (1), rows and columns of patches of each image, in order.
        image_token_id: the id that stands for one visual token.
        merge_size: patches a side of one visual token.
    """
    result = np.empty((3, len(input_ids)), np.int64)
    image_tokens = np.flatnonzero(input_ids == image_token_id)
    done, position, used = 0, 0, 0
    for _, grid_rows, grid_columns in image_grid.tolist():
        rows, columns = grid_rows // merge_size, grid_columns // merge_size
        first = int(image_tokens[used])
        result[:, done:first] = np.arange(position, position + first - done)
        position += first - done
        done = first + rows * columns
        result[0, first:done] = position
        result[1, first:done] = position + np.repeat(np.arange(rows), columns)
        result[2, first:done] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
        used += rows * columns
    result[:, done:] = np.arange(position, position + len(input_ids) - done)
    return result


def _without_special_tokens(definition: str) -> str:
    """The same tokenizer, blind to control tokens in text (others, such as <think>, are ordinary text)."""
    values = json.loads(definition)
    values["added_tokens"] = [token for token in values.get("added_tokens") or () if not token["special"]]
    return json.dumps({**values, "post_processor": None, "truncation": None, "padding": None})
