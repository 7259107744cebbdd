"""A local model of transformers that answers one message: for sentences any chat model, for images one that sees."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from egem.annotators.checkpoints import checkpoint_name, unreadable
from egem.core.errors import CheckpointError
from egem.device import device_of


@dataclass(frozen=True, kw_only=True)
class LocalChat:
    """Greedy answers of one checkpoint."""

    network: Any
    tokenizer: Any
    """A tokenizer, or the processor of a model that sees."""
    sees: bool
    model: str
    device: Any

    @classmethod
    def from_pretrained(cls, checkpoint: str, *, sees: bool = False, device: str = "auto") -> "LocalChat":
        """Load a checkpoint (folder or name on the hub).

        Args:
            checkpoint: a chat model.
            sees: whether images will be shown to it.
            device: see `egem.device.device_of`.

        Raises:
            CheckpointError: it cannot be loaded, or has no chat template.
        """
        from transformers import (
            AutoModelForCausalLM,
            AutoModelForImageTextToText,
            AutoProcessor,
            AutoTokenizer,
        )

        place = device_of(device)
        kind, reader = (
            (AutoModelForImageTextToText, AutoProcessor) if sees else (AutoModelForCausalLM, AutoTokenizer)
        )
        try:
            network = kind.from_pretrained(checkpoint, dtype="auto").to(place).eval()  # pyright: ignore[reportArgumentType]
            tokenizer = reader.from_pretrained(checkpoint)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise unreadable(checkpoint, "language model", error) from error
        if not getattr(tokenizer, "chat_template", None):
            raise CheckpointError(f"{checkpoint} has no chat template; give an instruction-tuned model.")
        return cls(
            network=network, tokenizer=tokenizer, sees=sees, model=checkpoint_name(checkpoint), device=place
        )

    def complete(self, content: str | Sequence[dict[str, Any]], *, max_tokens: int) -> str:
        """See `egem.annotators.objects.Chat`.

        Raises:
            CheckpointError: an image for a model that reads only.
        """
        import torch

        if isinstance(content, str):
            parts: Any = [{"type": "text", "text": content}] if self.sees else content
        elif self.sees:
            parts = [_shown(part) for part in content]
        else:
            raise CheckpointError(f"{self.model} was loaded for text; images need a model that sees.")
        inputs = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self.device)
        with torch.inference_mode():
            written = self.network.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        new = written[0, inputs["input_ids"].shape[1] :]
        return self.tokenizer.decode(new, skip_special_tokens=True)


def _shown(part: dict[str, Any]) -> dict[str, Any]:
    """A part of an OpenAI message as transformers' processors take it."""
    if part["type"] != "image_url":
        return part
    data = base64.b64decode(part["image_url"]["url"].split(",", 1)[1])
    return {"type": "image", "image": Image.open(io.BytesIO(data)).convert("RGB")}
