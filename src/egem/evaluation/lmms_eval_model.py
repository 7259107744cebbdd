"""`lmms-eval --model egem --model_args checkpoint=FOLDER`: GEM inside lmms-eval.

lmms-eval finds `manifest` through the entry point group `lmms_eval.models`. Its class must derive from one of
lmms-eval's own, so it is made when it is first asked for: without lmms-eval nothing here is imported.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egem.core.errors import ConfigError
from egem.media import encode_png
from egem.records import IMAGE_MARK, Answer, ImageFile, Message, Record
from egem.video import read_frames

NUM_FRAMES = 32
_WRITES_ONLY = "egem answers tasks of one round and of output type generate_until only; choose another task."


def manifest() -> Any:
    """What lmms-eval's registry asks of an entry point."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id="egem", chat_class_path=f"{__name__}.EgemChat")


def record_of(messages: Sequence[dict[str, Any]], id: str, *, num_frames: int = NUM_FRAMES) -> Record:
    """lmms-eval's chat messages as a record: images and frames of videos where they stand in the text.

    Args:
        messages: {"role", "content": [{"type": "text" | "image" | "video", ...}]}; the last one is the user's.
        id: of the record.
        num_frames: of each video.

    Raises:
        ConfigError: audio or another part that a vision-language model cannot see.
        RecordError: a video cannot be read.
    """
    images: list[ImageFile] = []
    turns: list[Message] = []
    for message in messages:
        text = ""
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                text += part["text"]
                continue
            found = _images(part, num_frames)
            images += found
            text += IMAGE_MARK * len(found)
        turns.append(Message(role=message["role"], content=text))
    return Record(
        id=id,
        source="lmms-eval",
        category="spatial",
        skill="lmms-eval",
        group=id,
        images=tuple(images),
        messages=(*turns, Message(role="assistant", content="(asked)")),
        answer=Answer(kind="text", text="(asked)"),
    )


def _images(part: dict[str, Any], num_frames: int) -> list[ImageFile]:
    media = part.get("url", part.get(part["type"]))
    if part["type"] == "image" and isinstance(media, str):
        return [ImageFile(path=media)]
    if part["type"] == "image" and isinstance(media, Image.Image):
        return [ImageFile(data=encode_png(np.asarray(media.convert("RGB"))))]
    if part["type"] == "video" and isinstance(media, str):
        frames, _ = read_frames(Path(media), num=num_frames)
        return [ImageFile(data=encode_png(frame)) for frame in frames]
    raise ConfigError(f"a task with {part['type']} cannot be asked of GEM; it sees images and video files.")


@functools.cache
def _chat_class() -> type:
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

    from egem.evaluation.predictor import Predictor

    class EgemChat(lmms):
        """GEM behind lmms-eval's chat interface; greedy, whatever a task's temperature."""

        is_simple = False

        def __init__(
            self,
            checkpoint: str = "",
            batch_size: int | str = 1,
            device: str = "auto",
            num_frames: int | str = NUM_FRAMES,
            **ignored: Any,
        ) -> None:
            super().__init__()
            if not checkpoint:
                raise ConfigError("give --model_args checkpoint=FOLDER, a checkpoint folder of egem.")
            unknown = set(ignored) - {"max_batch_size"}
            if unknown:
                raise ConfigError(f"--model_args: unknown {', '.join(sorted(unknown))} for egem.")
            self.predictor = Predictor.from_checkpoint(Path(checkpoint), device=device or "auto")
            self.batch = int(batch_size) if str(batch_size).isdigit() else 1
            self.num_frames = int(num_frames)

        def generate_until(self, requests: list[Any]) -> list[str]:
            """The answers, in the order of the requests."""
            answers = [""] * len(requests)
            by_length: dict[int, list[int]] = {}
            for index, request in enumerate(requests):
                by_length.setdefault(int(request.args[2].get("max_new_tokens", 1024)), []).append(index)
            for length, indices in by_length.items():
                for start in range(0, len(indices), self.batch):
                    chunk = indices[start : start + self.batch]
                    records = [self._record(requests[index], index) for index in chunk]
                    texts = self.predictor.answer(records, batch_size=self.batch, max_new_tokens=length)
                    for index, text in zip(chunk, texts, strict=True):
                        answers[index] = _until(text, requests[index].args[2].get("until"))
            return answers

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            """Not offered.

            Raises:
                ConfigError: always.
            """
            raise ConfigError(_WRITES_ONLY)

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            """Not offered; see `loglikelihood`."""
            raise ConfigError(_WRITES_ONLY)

        def _record(self, request: Any, index: int) -> Record:
            _, to_messages, _, document, task, split = request.args
            messages = to_messages(self.task_dict[task][split][document])
            return record_of(messages, f"{task}/{split}/{document}/{index}", num_frames=self.num_frames)

    return EgemChat


def _until(text: str, stops: Any) -> str:
    for stop in [stops] if isinstance(stops, str) else stops or []:
        text = text.split(stop)[0] if stop else text
    return text


def __getattr__(name: str) -> Any:
    # lmms-eval imports the class by its path; only then is lmms-eval itself needed.
    if name == "EgemChat":
        return _chat_class()
    raise AttributeError(name)
