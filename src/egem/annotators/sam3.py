"""SAM 3 (transformers' `Sam3Model`, `Sam3VideoModel`): masks of what a short noun phrase names.

Images are prepared here and not by the checkpoint's processor, which needs torchvision: size, mean and deviation are
read from the checkpoint. `tests/unit/test_sam3.py` holds the scores and masks to the processor's rule.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image

from egem.annotators.checkpoints import checkpoint_name, licence_of, unreadable
from egem.annotators.masks import Detection
from egem.device import device_of

PROMPT_TOKENS: Final = 32
"""A prompt is padded, or cut, to this many tokens, as in training."""


@dataclass(frozen=True, kw_only=True)
class Sam3Options:
    """What counts as found; the defaults are the processor's."""

    min_score: float = 0.3
    """Of a detection: that of the query times that of the phrase being there at all."""
    mask_threshold: float = 0.5
    max_per_phrase: int = 20
    """The best are kept."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """How a checkpoint wants its images."""

    size: tuple[int, int]
    """(height, width); images are squeezed to it."""
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, checkpoint: str) -> "Pictures":
        """Read from `preprocessor_config.json`, or `processor_config.json` where the checkpoint has only that."""
        stored: dict[str, Any] = {}
        for name in ("processor_config.json", "preprocessor_config.json"):
            stored |= _section(_json_of(checkpoint, name))
        size = stored.get("size", {"height": 1008, "width": 1008})
        return cls(
            size=(size["height"], size["width"]),
            mean=tuple(stored.get("image_mean", (0.5, 0.5, 0.5))),
            deviation=tuple(stored.get("image_std", (0.5, 0.5, 0.5))),
        )

    def tensor(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Any:
        """(image, 3, height, width) float32."""
        height, width = self.size
        resized = [
            np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
            for image in images
        ]
        pixels = np.stack(resized).astype(np.float32) / 255
        pixels = (pixels - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """What both kinds of model read from a checkpoint."""

    model: Any
    tokenizer: Any
    pictures: Pictures
    origin: str
    licence: str
    device: torch.device


def _load(kind: Any, checkpoint: str, device: str) -> dict[str, Any]:
    """The fields of `_Loaded`, with a model of a class of transformers.

    Raises:
        CheckpointError: it cannot be loaded.
        ConfigError: no such device here.
    """
    from transformers import AutoTokenizer

    place = device_of(device)
    try:
        model = kind.from_pretrained(checkpoint).to(place).eval()
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        pictures = Pictures.of(checkpoint)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise unreadable(checkpoint, "SAM 3", error) from error
    return {
        "model": model,
        "tokenizer": tokenizer,
        "pictures": pictures,
        "origin": f"sam3/{checkpoint_name(checkpoint)}",
        "licence": licence_of(checkpoint),
        "device": place,
    }


@dataclass(frozen=True, kw_only=True)
class Sam3(_Loaded):
    """`Sam3Model` for single images: encodes an image once, then decodes each phrase."""

    options: Sam3Options

    @classmethod
    def from_pretrained(
        cls, checkpoint: str, *, options: Sam3Options | None = None, device: str = "auto"
    ) -> "Sam3":
        """Load a checkpoint (folder or name on the hub); one of `Sam3VideoModel` works too.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        from transformers import Sam3Model

        return cls(**_load(Sam3Model, checkpoint, device), options=options or Sam3Options())

    def detect(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], phrases: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """See `MaskDetector`."""
        found: list[list[Detection]] = [[] for _ in images]
        pairs = [(i, phrase) for i, wanted in enumerate(phrases) for phrase in wanted]
        if not pairs:
            return found
        with torch.inference_mode():
            vision = self.model.get_vision_features(pixel_values=self.pictures.tensor(images).to(self.device))
            # As many phrases at a time as there are images: the decoder then needs no more memory than the encoder.
            for start in range(0, len(pairs), len(images)):
                part = pairs[start : start + len(images)]
                index = torch.tensor([i for i, _ in part], device=self.device)
                tokens = prompt_tokens(self.tokenizer, [phrase for _, phrase in part]).to(self.device)
                output = self.model(
                    vision_embeds=_taken(vision, index),
                    input_ids=tokens["input_ids"],
                    attention_mask=tokens["attention_mask"],
                )
                for row, (i, phrase) in enumerate(part):
                    size = images[i].shape[:2]
                    found[i] += [
                        Detection(phrase=phrase, mask=mask, score=score)
                        for score, mask in instances(output, row, size, self.options)
                    ]
        return found


@dataclass(frozen=True, kw_only=True)
class Sam3Clips(_Loaded):
    """`Sam3VideoModel`: things keep their number from frame to frame."""

    @classmethod
    def from_pretrained(cls, checkpoint: str, *, device: str = "auto") -> "Sam3Clips":
        """Load a checkpoint (folder or name on the hub).

        Raises:
            CheckpointError: it cannot be loaded.
        """
        from transformers import Sam3VideoModel

        return cls(**_load(Sam3VideoModel, checkpoint, device))

    def detect_clip(
        self, frames: Sequence[UInt8[np.ndarray, "height width 3"]], phrases: Sequence[str]
    ) -> list[list[Detection]]:
        """See `ClipDetector`. Thresholds are those of the checkpoint's configuration."""
        from torch.nn.functional import interpolate
        from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

        height, width = frames[0].shape[:2]
        found: list[list[Detection]] = [[] for _ in frames]
        if not phrases:
            return found
        session = Sam3VideoInferenceSession(
            video=self.pictures.tensor(frames),
            video_height=height,
            video_width=width,
            inference_device=self.device,
            inference_state_device=self.device,
            video_storage_device="cpu",
            dtype=torch.float32,
        )
        for phrase in phrases:
            number = session.add_prompt(phrase)
            tokens = prompt_tokens(self.tokenizer, [phrase]).to(self.device)
            session.prompt_input_ids[number] = tokens["input_ids"]
            session.prompt_attention_masks[number] = tokens["attention_mask"]
        with torch.inference_mode():
            for output in self.model.propagate_in_video_iterator(inference_session=session):
                # A track that a later frame shows to be false is taken back from the frames before.
                hidden = set(output.suppressed_obj_ids or ()) | set(session.hotstart_removed_obj_ids)
                for number, logits in output.obj_id_to_mask.items():
                    large = interpolate(logits[None].float(), size=(height, width), mode="bilinear")
                    mask = (large[0, 0] > 0).cpu().numpy()
                    if number in hidden or not mask.any():
                        continue
                    phrase = session.prompts[session.obj_id_to_prompt_id[number]]
                    score = float(output.obj_id_to_score.get(number, 0.0))
                    found[output.frame_idx].append(
                        Detection(phrase=phrase, mask=mask, score=score, object_id=int(number))
                    )
        removed = set(session.hotstart_removed_obj_ids)
        return [[each for each in frame if each.object_id not in removed] for frame in found]


def prompt_tokens(tokenizer: Any, phrases: Sequence[str]) -> Any:
    """Ids and attention mask, (phrase, 32)."""
    return tokenizer(
        list(phrases), return_tensors="pt", padding="max_length", truncation=True, max_length=PROMPT_TOKENS
    )


def instances(
    output: Any, row: int, size: tuple[int, ...], options: Sam3Options
) -> list[tuple[float, Bool[np.ndarray, "height width"]]]:
    """Scores and masks of one row of the model's output, best first.

    A query's score is its own times that of the phrase being present (transformers'
    `post_process_instance_segmentation`); empty masks are left out.
    """
    from torch.nn.functional import interpolate

    scores = output.pred_logits[row].float().sigmoid()
    if output.presence_logits is not None:
        scores = scores * output.presence_logits[row].float().sigmoid()
    order = scores.argsort(descending=True)[: options.max_per_phrase]
    order = order[scores[order] > options.min_score]
    if not len(order):
        return []
    chances = output.pred_masks[row, order].float().sigmoid()
    large = interpolate(chances[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    masks = (large > options.mask_threshold).cpu().numpy()
    return [(score, mask) for score, mask in zip(scores[order].tolist(), masks, strict=True) if mask.any()]


def _taken(vision: Any, index: Any) -> Any:
    """The encoder's output for chosen images."""
    fields = {
        "last_hidden_state": vision.last_hidden_state[index],
        "fpn_hidden_states": tuple(level[index] for level in vision.fpn_hidden_states),
        "fpn_position_encoding": tuple(
            # Positions are the same for every image; some versions keep one row of them.
            level[index] if len(level) > 1 else level.expand(len(index), -1, -1, -1)
            for level in vision.fpn_position_encoding
        ),
    }
    return type(vision)(**fields)


def _section(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("image_processor", config)


def _json_of(checkpoint: str, name: str) -> dict[str, Any]:
    from transformers.utils.hub import cached_file

    found = cached_file(
        checkpoint,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if found is None else json.loads(Path(found).read_text())
