"""`egem bench train --plan`: memory of one GPU by component, before a run is started.

Weights are counted and one packed row is sent through the model on torch's meta device, which computes shapes
alone: what autograd keeps for the backward pass is added up tensor by tensor, in bfloat16 as FSDP's mixed
precision computes. Nothing of the model's size is ever allocated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from egem.batch import IGNORE_LABEL, Batch, DepthTargets
from egem.benchmarking.workload import preset_to_time
from egem.core.errors import ConfigError
from egem.data.depth import target_size
from egem.models.blocks import Checkpointing, products, transformer_blocks
from egem.models.cross_entropy import MAX_LOGITS
from egem.models.depth_codec import DepthCodec
from egem.models.gem import GEM
from egem.models.lora import adapted_modules, add_adapters, is_adapter
from egem.models.presets import build

_GB = 1e9
_RESERVE = 2.0
"""Gigabytes for the CUDA context, NCCL's buffers and fragmentation."""
_TEXT_PER_IMAGE = 120
"""Text tokens of one image's conversation, half of them supervised."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is planned: a joint stage, sharded over all GPUs when there are several."""

    preset: str
    """Sizes of the model."""
    gpus: int = 1
    """GPUs that the model is split over."""
    gpu_memory: float = 80.0
    """Gigabytes of each."""
    row_tokens: int = 16_384
    """Tokens of one forward pass."""
    image_size: int = 448
    """Pixels a side."""
    activation_checkpointing: Checkpointing = "none"
    """As in `egem train`."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """As in `egem train`."""
    lora_rank: int | None = None
    """As in `egem train`."""
    lora_modules: tuple[str, ...] = ("backbone",)
    """As in `egem train`."""
    frozen: tuple[str, ...] = ()
    """Modules that are not trained at all."""
    accumulate_whole: bool = True
    """As in a stage of `egem train`, for several GPUs; where a step is one forward pass, plan with False."""
    cached_latents: bool = False
    """Depth latents lie beside the records, so the depth codec is not needed."""

    def __post_init__(self) -> None:
        """Refuse what cannot be planned.

        Raises:
            ConfigError: names the field.
        """
        for name in ("gpus", "gpu_memory", "row_tokens", "image_size"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} {getattr(self, name)} must be above 0.")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Gigabytes of one GPU."""

    weights: float
    gradients: float
    """Float32; several GPUs keep whole ones until the last forward pass of a step, unless they sum after each."""
    optimizer: float
    gathered_weights: float
    """In bfloat16: what FSDP holds whole for a while (everything outside the blocks, and two blocks); on one GPU
    autocast's copies of all that is trained, which the backward pass needs."""
    depth_codec: float
    activations: dict[str, float]
    """Kept for the backward pass by text layers, vision tower, depth head and the rest."""
    loss: float
    """Logits of one chunk and the output layer's gradient."""
    reserve: float = _RESERVE

    @property
    def total(self) -> float:
        """Of all components."""
        parts = (self.weights, self.gradients, self.optimizer, self.gathered_weights, self.depth_codec)
        return sum(parts) + sum(self.activations.values()) + self.loss + self.reserve


def plan(config: PlanConfig) -> Plan:
    """Memory of one GPU.

    Raises:
        ConfigError: no preset has that name.
    """
    model = _meta_model(config)
    adapted = adapted_modules(model)
    stored, trained = 0.0, 0
    for name, parameter in model.named_parameters():
        module = name.split(".")[0]
        learns = module not in config.frozen and (is_adapter(name) or module not in adapted)
        parameter.requires_grad_(learns)
        # Sharded weights are float32; on one GPU modules that are not trained stay bfloat16.
        stored += parameter.numel() * (4 if learns or config.gpus > 1 else 2)
        trained += parameter.numel() if learns else 0
    share = 1 / config.gpus
    states = 8 if config.optimizer == "adamw" else 2
    codec = 0.0
    if not config.cached_latents:
        codec = sum(p.numel() * 4 for p in _codec_parameters(model))
    vocabulary = model.backbone.qwen.lm_head.weight
    return Plan(
        weights=stored * share / _GB,
        gradients=4 * trained * (1.0 if config.accumulate_whole else share) / _GB,
        optimizer=states * trained * share / _GB,
        gathered_weights=2.0 * (trained if config.gpus == 1 else _gathered(model)) / _GB,
        depth_codec=codec / _GB,
        activations=_activations(model, config),
        loss=(min(MAX_LOGITS, vocabulary.shape[0] * config.row_tokens) * 10 + _head_gradient(vocabulary))
        / _GB,
    )


def _head_gradient(weight: Tensor) -> float:
    return 4.0 * weight.numel() if weight.requires_grad else 0.0


def _meta_model(config: PlanConfig) -> GEM:
    model = build(preset_to_time(config.preset), device="meta")
    if config.lora_rank is not None:
        add_adapters(model, config.lora_modules, rank=config.lora_rank, alpha=1.0, seed=0)
    return model.train()


def _codec_parameters(model: GEM) -> Iterator[Tensor]:
    autoencoder = getattr(model.depth_codec, "autoencoder", None)
    if isinstance(autoencoder, nn.Module):
        yield from autoencoder.parameters()


def _gathered(model: GEM) -> int:
    """Values that FSDP holds whole beside the shards."""
    blocks = [sum(p.numel() for p in block.parameters()) for block in transformer_blocks(model)]
    everything = sum(p.numel() for p in model.parameters())
    return everything - sum(blocks) + 2 * max(blocks)


def example_row(model: GEM, config: PlanConfig) -> Batch:
    """One packed row of equal samples: an image with its depth map, and text, half of it supervised."""
    backbone = model.backbone
    side = config.image_size // (backbone.patch_size * backbone.merge_size) * backbone.merge_size
    image_tokens = side**2 // backbone.merge_size**2
    length = min(image_tokens + _TEXT_PER_IMAGE, config.row_tokens)
    if image_tokens == 0 or image_tokens >= length:
        raise ConfigError(
            f"row_tokens {config.row_tokens} with images of {config.image_size} pixels ({image_tokens} tokens): "
            "a row must hold an image and some text."
        )
    num_images = config.row_tokens // length
    ids = torch.zeros(num_images, length, dtype=torch.long)
    ids[:, :image_tokens] = int(backbone.config.image_token_id)  # pyright: ignore[reportArgumentType]
    labels = ids.clone()
    labels[:, : length - _TEXT_PER_IMAGE // 2] = IGNORE_LABEL
    height, width = target_size(side * backbone.patch_size, side * backbone.patch_size, model.config.depth)
    return Batch(
        record_ids=(),
        input_ids=ids.view(1, -1),
        labels=labels.view(1, -1),
        position_ids=torch.arange(length).repeat(3, 1, num_images),
        segment_ids=torch.arange(1, num_images + 1).repeat_interleave(length)[None],
        patches=torch.empty(num_images * side**2, backbone.patch_dim, dtype=torch.bfloat16, device="meta"),
        image_grid=torch.tensor([[1, side, side]]).repeat(num_images, 1),
        depth=(
            DepthTargets(
                pixels=torch.empty(num_images, model.depth_codec.channels, height, width, device="meta"),
                valid=torch.ones(num_images, height, width, dtype=torch.bool),
                image_index=torch.arange(num_images),
                weight=torch.ones(num_images),
            ),
        ),
    )


def _activations(model: GEM, config: PlanConfig) -> dict[str, float]:
    """Gigabytes kept of one row, by part."""
    batch = example_row(model, config).to("meta")
    model.to(torch.bfloat16)
    codec, model.depth_codec = model.depth_codec, _ShapesOnly(model.depth_codec)
    kept = Kept(model)
    try:
        with kept.counting():
            model(batch)
    finally:
        model.depth_codec = codec
    return {part: size / _GB for part, size in kept.under(config.activation_checkpointing).items()}


class _ShapesOnly:
    """Stands in for a codec on the meta device: sizes of latents without an encoder's work."""

    def __init__(self, codec: DepthCodec) -> None:
        self.factor, self.latent_channels, self.channels = codec.factor, codec.latent_channels, codec.channels

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of these pixels."""
        return pixels.new_empty(len(pixels), self.latent_channels, *self._cells(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of these latents."""
        height, width = (side * self.factor for side in latents.shape[2:])
        return latents.new_empty(len(latents), self.channels, height, width)

    def latent_weight(self, valid: Tensor) -> Tensor:
        """Weights of their cells."""
        return torch.empty(len(valid), 1, *self._cells(valid), device=valid.device)

    def save(self, folder: Path) -> None:
        """There is nothing to save."""

    def _cells(self, pixels: Tensor) -> tuple[int, int]:
        return pixels.shape[-2] // self.factor, pixels.shape[-1] // self.factor


class Kept(TorchDispatchMode):
    """Counts what a forward pass keeps for its backward pass, in bytes, by part of the model.

    Three counts a part: all that autograd keeps; the inputs of the blocks; the results of matrix products in
    them. The ways of checkpointing keep the first, the second, or the second and third.
    """

    def __init__(self, model: GEM) -> None:
        super().__init__()
        qwen = model.backbone.qwen.model
        self._blocks: dict[str, nn.ModuleList] = {
            "vision tower": qwen.visual.blocks,
            "text layers": qwen.language_model.layers,
            "depth head": model.depth_head.sana.transformer_blocks,
        }
        names = (*self._blocks, "rest")
        self.everything, self.inputs, self.products = (dict.fromkeys(names, 0.0) for _ in range(3))
        self._part = "rest"
        # Kept alive while counting, so that no other tensor gets the same place.
        self._seen: dict[int, Tensor] = {p.untyped_storage()._cdata: p for p in model.parameters()}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is kept inside the block."""
        handles = []
        for part, blocks in self._blocks.items():
            for block in blocks:
                handles.append(block.register_forward_pre_hook(self._enter(part)))
                handles.append(block.register_forward_hook(self._leave))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept), self:
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    def under(self, mode: Checkpointing) -> dict[str, float]:
        """Bytes by part with this way of checkpointing; one block at a time is computed again in full."""
        if mode == "none":
            return self.everything
        found = {"rest": self.everything["rest"]}
        for part in self._blocks:
            found[part] = self.inputs[part] + (self.products[part] if mode == "selective" else 0.0)
        again = max(self.everything[part] / len(blocks) for part, blocks in self._blocks.items())
        return found | {"block computed again": again}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in products():
            first = result[0] if isinstance(result, tuple) else result
            self.products[self._part] += first.untyped_storage().nbytes()
        return result

    def _enter(self, part: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._part = part
            self.inputs[part] += inputs[0].untyped_storage().nbytes()

        return hook

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._part = "rest"

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen[storage._cdata] = tensor
            self.everything[self._part] += storage.nbytes()
        return tensor


def advice(config: PlanConfig) -> tuple[list[str], Plan]:
    """Options to turn on, one after another, until the plan fits; all of them if it never does."""
    changes: list[tuple[str, dict[str, Any]]] = [
        ("--activation-checkpointing selective", {"activation_checkpointing": "selective"}),
        ("--activation-checkpointing full", {"activation_checkpointing": "full"}),
        ("cached latents (egem data annotate latents)", {"cached_latents": True}),
    ]
    changes += [(f"row_tokens {n}", {"row_tokens": n}) for n in (8192, 4096, 2048) if n < config.row_tokens]
    if config.gpus == 1:
        changes += [
            ("--optimizer adamw8bit", {"optimizer": "adamw8bit"}),
            ("--lora-rank 16", {"lora_rank": 16}),
            ("--lora-modules backbone depth_head", {"lora_modules": ("backbone", "depth_head")}),
        ]
    else:
        changes.insert(2, ("accumulate_whole false in each stage", {"accumulate_whole": False}))
        changes += [(f"{config.gpus * n} GPUs", {"gpus": config.gpus * n}) for n in (2, 4, 8)]
    chosen: dict[str, str] = {}
    for text, change in changes:
        if all(getattr(config, name) == value for name, value in change.items()):
            continue
        config = replace(config, **change)
        chosen[next(iter(change))] = text
        found = plan(config)
        if found.total <= config.gpu_memory:
            break
    else:
        found = plan(config)
    return list(chosen.values()), found


def plan_result(config: PlanConfig) -> dict[str, Any]:
    """The plan and, where it does not fit, what to turn on; as JSON can hold it."""
    found = plan(config)
    result: dict[str, Any] = {"config": asdict(config), "plan": asdict(found), "total": found.total}
    result["fits"] = found.total <= config.gpu_memory
    if not result["fits"]:
        options, then = advice(config)
        result["turn_on"] = options
        result["total_then"] = then.total
        result["fits_then"] = then.total <= config.gpu_memory
    return result


def plan_table(result: dict[str, Any]) -> str:
    """The plan in Markdown, with what to turn on."""
    rows = {name.replace("_", " "): value for name, value in result["plan"].items() if name != "activations"}
    rows |= {f"activations: {part}": size for part, size in result["plan"]["activations"].items()}
    config = result["config"]
    lines = ["| component | GB of one GPU |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in rows.items()]
    lines.append(f"| **total** | **{result['total']:.2f}** of {config['gpu_memory']:g} |")
    if result["fits"]:
        lines.append(f"\n{config['preset']} fits on {config['gpus']} GPU(s).")
    else:
        end = "fits" if result["fits_then"] else "still does not fit"
        lines.append(f"\nIt does not fit. Turn on: {'; '.join(result['turn_on'])}.")
        lines.append(f"With that {result['total_then']:.1f} GB are needed and it {end}.")
    return "\n".join(lines)
