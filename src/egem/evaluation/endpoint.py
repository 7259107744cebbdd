"""A model behind an OpenAI-compatible server as something that answers benchmarks."""

import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from egem.core.errors import RecordError
from egem.evaluation.chat import ChatServer
from egem.media import decode_image, encode_png
from egem.records import IMAGE_MARK, ImageFile, Record

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


class Endpoint:
    """Asks a server, as many questions at a time as the batch is large.

    Images are sent as they are stored, where the text has their marks. Greedy: temperature 0.
    """

    def __init__(self, server: ChatServer) -> None:
        self.server = server
        self.name = f"{server.model} at {server.url}"

    @property
    def fingerprint(self) -> str:
        """Of address, model and settings: a server cannot be asked for the hash of its weights."""
        told = (self.server.url, self.server.model, self.server.temperature, self.server.seed)
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def answer(self, records: Sequence[Record], *, batch_size: int, max_new_tokens: int) -> list[str]:
        """See `egem.evaluation.predictor.Answering`.

        Raises:
            ProtocolError: the server gave no answer.
            RecordError: an image cannot be read.
        """
        with ThreadPoolExecutor(max(1, min(batch_size, len(records)))) as pool:
            asked = [
                pool.submit(self.server.complete, message_parts(record), max_tokens=max_new_tokens)
                for record in records
            ]
            try:
                return [future.result().strip() for future in asked]
            except BaseException:
                for future in asked:
                    future.cancel()
                raise


def message_parts(record: Record) -> list[dict[str, Any]]:
    """The last question of a record as parts of a chat message, images where their marks stand.

    Raises:
        RecordError: an image cannot be read, or the record has earlier turns.
    """
    questions = [message for message in record.messages[:-1] if message.role == "user"]
    if len(questions) != 1:
        raise RecordError(
            f"record '{record.id}' has {len(questions)} questions; a server is asked one at a time."
        )
    images = iter(zip(record.images, record.timestamps or [None] * len(record.images), strict=True))
    parts: list[dict[str, Any]] = []
    for index, text in enumerate(questions[0].content.split(IMAGE_MARK)):
        if index:
            image, second = next(images)
            if second is not None:
                parts.append({"type": "text", "text": f"<{second:.1f} seconds>"})
            parts.append({"type": "image_url", "image_url": {"url": _data_uri(image, record.id)}})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _data_uri(image: ImageFile, id: str) -> str:
    data = image.data
    if data is None and image.path is not None:
        try:
            with open(image.path, "rb") as file:  # noqa: PTH123
                data = file.read()
        except OSError as error:
            raise RecordError(
                f"record '{id}': image {image.path} cannot be read: {error.strerror}."
            ) from error
    kind = next((kind for first, kind in _KINDS.items() if data and data.startswith(first)), None)
    if kind is None:
        data, kind = encode_png(decode_image(image, where=f"record '{id}'")), "png"
    return f"data:image/{kind};base64,{base64.b64encode(data or b'').decode()}"
