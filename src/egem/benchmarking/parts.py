"""Where a step's time goes: vision tower, text layers, output layer, depth head; forward and backward."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from egem.models.gem import GEM


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds, read once all that was asked of the device is done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


@contextmanager
def parts_timed(model: GEM, seconds: dict[str, float], now: Callable[[], float]) -> Iterator[None]:
    """Add the seconds of each part to `seconds`, for one forward and backward pass inside the block.

    A backward pass runs the heads first, then the text layers, then the vision tower: the times at which the
    gradient reaches their borders divide it. Waiting for the device at each border costs some time in itself.
    """
    marks: dict[str, float] = {}

    def add(name: str, start: float, stop: float) -> None:
        seconds[name] = seconds.get(name, 0.0) + stop - start

    def marked(tensor: Tensor, name: str) -> None:
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: marks.setdefault(name, now()) and None)

    def timed(
        name: str, function: Callable[..., Any], border: Callable[[Any], Tensor] | None
    ) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            start = now()
            result = function(*arguments, **options)
            add(name, start, now())
            if border is not None:
                marked(border(result), name)
            return result

        return run

    backbone = model.backbone
    text = timed("text", backbone.run_layers, lambda hidden: hidden)

    def text_after_vision(embeddings: Tensor, *arguments: Any, **options: Any) -> Tensor:
        marked(embeddings, "vision")
        return text(embeddings, *arguments, **options)

    replaced: list[tuple[object, str, Callable[..., Any]]] = [
        (backbone, "_vision", timed("vision", backbone._vision, None)),
        (backbone, "run_layers", text_after_vision),
        (backbone, "language_loss", timed("output layer", backbone.language_loss, lambda found: found[0])),
        (model.depth_codec, "encode", timed("depth codec", model.depth_codec.encode, None)),
        (model, "depth_loss", timed("depth head", model.depth_loss, lambda found: found[0])),
    ]
    originals = [(owner, name, vars(owner).get(name)) for owner, name, _ in replaced]
    for owner, name, function in replaced:
        object.__setattr__(owner, name, function)
    try:
        yield
    finally:
        end = now()
        for owner, name, original in originals:
            object.__delattr__(owner, name)
            if original is not None:
                object.__setattr__(owner, name, original)
        order = sorted(marks, key=marks.__getitem__)
        for name, following in zip(order, [*order[1:], None], strict=True):
            add(name, marks[name], end if following is None else marks[following])
        if "depth codec" in seconds and "depth head" in seconds:
            seconds["depth head"] -= seconds["depth codec"]
