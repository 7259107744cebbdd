"""`egem bench policy`: chunks of actions with the prefix reused, recomputed, compiled, as a CUDA graph, in one run."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from egem.batch import IGNORE_LABEL, Sample
from egem.benchmarking.machine import forget_peak, machine_name, peak_memory_gb
from egem.benchmarking.parts import clock_of
from egem.benchmarking.workload import preset_to_time
from egem.core.errors import ConfigError
from egem.core.machine import commit
from egem.device import device_of
from egem.models.action_flow import sample_chunks
from egem.models.action_sampler import ActionSampler, Compiled
from egem.models.gem_vla import GEMVLA, add_action_expert
from egem.models.presets import build, expert_config
from egem.training.host import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class BenchPolicyConfig:
    """Latency of GEM-VLA at a preset's sizes, weights random."""

    preset: str = "tiny"
    """Sizes of the model."""
    views: int = 2
    """Cameras."""
    image_size: int | None = None
    """Pixels a side of each; 128 for `tiny` and 256 for the others if not given."""
    prompt_tokens: int = 24
    """Text of the instruction."""
    batch_size: int = 1
    """Robots asked at once."""
    action_dim: int = 7
    state_dim: int = 8
    horizon: int = 16
    """Actions in a chunk."""
    conditioning: Literal["keys_values", "hidden_states"] = "keys_values"
    """What the expert looks at."""
    num_steps: int = 10
    """Of the flow."""
    chunks: int = 20
    """Timed chunks of each way; the ways take turns."""
    warm_up: int = 3
    """Chunks before, not timed."""
    compiled: bool = True
    """Also with the expert compiled, then with all blocks."""
    cuda_graph: bool = True
    """Also as a CUDA graph, on a GPU."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of weights and computation; bfloat16 on a GPU and float32 on the CPU if not given."""
    device: str = "auto"
    """`auto` takes a GPU if there is one; or `cpu`, `cuda`."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.views, self.batch_size, self.num_steps, self.chunks, self.prompt_tokens) < 1:
            raise ConfigError(
                "views, batch_size, num_steps, chunks and prompt_tokens must each be at least 1."
            )


def bench_policy(config: BenchPolicyConfig) -> dict[str, Any]:
    """Time every way of sampling the same chunks, and compare what comes out.

    Returns:
        The result as JSON values: latencies in milliseconds, agreement with the eager way, the ratio of recomputing
        to reusing the prefix.
    """
    device = device_of(config.device)
    keep_freed_memory()
    dtype = _dtype(config, device)
    model = _model(config).to(device=device, dtype=dtype).eval()
    samples = [_sample(model, config, config.seed + index) for index in range(config.batch_size)]
    generator = torch.Generator().manual_seed(config.seed)
    states = torch.randn(config.batch_size, config.state_dim, generator=generator)
    noise = torch.randn(config.batch_size, config.horizon, config.action_dim, generator=generator)
    forget_peak(device)
    ways: dict[str, Callable[[], Tensor]] = {
        "recomputed": lambda: _recomputed(model, samples, states, noise, config.num_steps),
        "reused": lambda: model.sample_actions(samples, states, noise=noise, num_steps=config.num_steps),
        "prefix alone": lambda: model.prefix(samples).layers[0][0],
    }
    results, drawn = _timed(ways, config, device)
    # Compiling is in place, so it comes after everything that is timed without it.
    if config.compiled:
        kinds: tuple[Compiled, ...] = ("expert", "all")
        for kind in kinds:
            sampler = ActionSampler(model, num_steps=config.num_steps, compiled=kind)
            fast: dict[str, Callable[[], Tensor]] = {
                f"{kind} compiled": functools.partial(sampler, samples, states, noise=noise)
            }
            if config.cuda_graph and device.type == "cuda":
                recorded = ActionSampler(model, num_steps=config.num_steps, cuda_graph=True)
                fast[f"{kind} compiled, graph"] = functools.partial(recorded, samples, states, noise=noise)
            more, fast_drawn = _timed(fast, config, device)
            results, drawn = results | more, drawn | fast_drawn
    for name, values in results.items():
        if name != "prefix alone":
            values["cosine"], values["relative_mse"] = _agreement(drawn[name], drawn["reused"])
    return {
        "config": asdict(config),
        "machine": machine_name(device),
        "commit": commit(),
        "dtype": str(dtype).removeprefix("torch."),
        "prompt_tokens": len(samples[0].input_ids),
        "parameters": {
            name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
        },
        "ways": results,
        "recomputed_over_reused": results["recomputed"]["p50_ms"] / results["reused"]["p50_ms"],
        "peak_memory_gb": peak_memory_gb(device),
    }


def plan_policy(config: BenchPolicyConfig) -> dict[str, Any]:
    """Memory that a policy needs at a preset's sizes; nothing of its size is allocated.

    Returns:
        Parameters by part, and bytes of weights (without the depth branch, which acting does not need) and of the keys
        and values that all flow steps share, in bfloat16 if no other dtype is given.
    """
    model = _model(config, device="meta")
    width = torch.finfo(getattr(torch, config.dtype or "bfloat16")).bits // 8
    tokens = len(_sample(model, config, 0).input_ids)
    expert = model.action_expert.config
    heads, head_dim = expert.condition_heads, expert.condition_head_dim
    if expert.conditioning == "hidden_states":
        heads, head_dim = expert.num_kv_heads, expert.hidden_size // expert.num_heads
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    acting = parameters["backbone"] + parameters["action_expert"]
    return {
        "config": asdict(config),
        "parameters": parameters,
        "prompt_tokens": tokens,
        "weights_gb": acting * width / 1e9,
        "prefix_mb": config.batch_size * tokens * len(expert.layers) * 2 * heads * head_dim * width / 1e6,
        "flow_gflops": 2
        * parameters["action_expert"]
        * (expert.horizon + expert.num_registers + 1)
        * config.num_steps
        * config.batch_size
        / 1e9,
    }


def table(result: dict[str, Any]) -> str:
    """The result in lines for people."""
    lines = [f"{'way':<22}{'p50 ms':>9}{'p99 ms':>9}{'cosine':>10}"]
    for name, values in result["ways"].items():
        cosine = f"{values['cosine']:.6f}" if "cosine" in values else ""
        lines.append(f"{name:<22}{values['p50_ms']:>9.2f}{values['p99_ms']:>9.2f}{cosine:>10}")
    config = result["config"]
    lines.append(
        f"\nreusing the prefix: {result['recomputed_over_reused']:.2f} times as fast at {config['num_steps']} steps; "
        f"{result['prompt_tokens']} tokens in the prompt, {result['dtype']}, {result['machine']}"
    )
    return "\n".join(lines)


def plan_table(result: dict[str, Any]) -> str:
    """The plan in lines for people."""
    counts = "\n".join(f"{name:<16}{number:>16,} parameters" for name, number in result["parameters"].items())
    return (
        f"{counts}\n\nto act: {result['weights_gb']:.2f} GB of weights (backbone and action expert), "
        f"{result['prefix_mb']:.1f} MB shared by all flow steps ({result['prompt_tokens']} tokens a prompt), "
        f"{result['flow_gflops']:.1f} GFLOP of flow steps a chunk"
    )


def _dtype(config: BenchPolicyConfig, device: torch.device) -> torch.dtype:
    return getattr(torch, config.dtype or ("float32" if device.type == "cpu" else "bfloat16"))


def _model(config: BenchPolicyConfig, device: str = "cpu") -> GEMVLA:
    gem = build(preset_to_time(config.preset), seed=config.seed, device=device)
    model = add_action_expert(
        gem,
        expert_config(
            gem,
            action_dim=config.action_dim,
            state_dim=config.state_dim,
            horizon=config.horizon,
            conditioning=config.conditioning,
        ),
        seed=config.seed,
    )
    # A new expert's gates are zero: it would say nothing, and there would be nothing to compare.
    generator = torch.Generator(device).manual_seed(config.seed) if device != "meta" else None
    with torch.no_grad():
        for name, parameter in model.action_expert.named_parameters():
            if "adaLN_modulation" in name or "fc2" in name:
                parameter.normal_(std=0.02, generator=generator)
    return model


def _sample(model: GEMVLA, config: BenchPolicyConfig, seed: int) -> Sample:
    """Random pictures and words."""
    backbone, generator = model.backbone, torch.Generator().manual_seed(seed)
    size = config.image_size or (128 if config.preset == "tiny" else 256)
    factor = backbone.patch_size * backbone.merge_size
    if size % factor:
        raise ConfigError(
            f"image_size {size}; pictures of {config.preset} are multiples of {factor} pixels a side."
        )
    side, patches = size // factor, (size // backbone.patch_size) ** 2
    qwen = backbone.config
    ids: list[int] = []
    positions: list[Tensor] = []
    start = 0
    for _ in range(config.views):
        cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        grid = torch.cat([torch.zeros(side**2, 1, dtype=torch.int64), cells], dim=1) + start + 1
        around = torch.tensor([[start] * 3]), torch.tensor([[start + 1 + side] * 3])
        positions += [around[0], grid, around[1]]
        ids += [qwen.vision_start_token_id, *[qwen.image_token_id] * side**2, qwen.vision_end_token_id]  # pyright: ignore
        start += side + 2
    words = torch.randint(0, 1000, (config.prompt_tokens,), generator=generator)
    positions.append((torch.arange(config.prompt_tokens) + start)[:, None].expand(-1, 3))
    input_ids = torch.cat([torch.tensor(ids), words])
    return Sample(
        record_ids=(f"bench/{seed}",),
        input_ids=input_ids,
        labels=torch.full_like(input_ids, IGNORE_LABEL),
        position_ids=torch.cat(positions).T.contiguous(),
        patches=torch.randn(config.views * patches, backbone.patch_dim, generator=generator),
        image_grid=torch.tensor([[1, side * backbone.merge_size, side * backbone.merge_size]] * config.views),
    )


@torch.no_grad()
def _recomputed(
    model: GEMVLA, samples: Sequence[Sample], states: Tensor, noise: Tensor, num_steps: int
) -> Tensor:
    """The straightforward way: backbone and expert together in every flow step."""
    states = states.to(model.device)

    def velocity(chunk: Tensor, level: Tensor) -> Tensor:
        return model.action_expert(chunk, level, states, model.prefix(samples))

    return sample_chunks(velocity, noise.to(model.device), num_steps=num_steps)


def _timed(
    ways: dict[str, Callable[[], Tensor]], config: BenchPolicyConfig, device: torch.device
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    """Milliseconds of each way, and what it gave; the ways take turns, so that a busy machine slows all."""
    now = clock_of(device)
    drawn: dict[str, Tensor] = {}
    start_up: dict[str, float] = {}
    for name, way in ways.items():
        start = time.perf_counter()
        for _ in range(max(1, config.warm_up)):
            drawn[name] = way()
        start_up[name] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(config.chunks):
        for name, way in ways.items():
            start = now()
            way()
            seconds[name].append(now() - start)
    return {
        name: {
            "p50_ms": 1e3 * float(np.percentile(values, 50)),
            "p99_ms": 1e3 * float(np.percentile(values, 99)),
            "mean_ms": 1e3 * float(np.mean(values)),
            "warm_up_s": start_up[name],
        }
        for name, values in seconds.items()
    }, drawn


def _agreement(drawn: Tensor, expected: Tensor) -> tuple[float, float]:
    """Cosine of two chunks, and the mean squared difference over the expected one's mean square."""
    a, b = drawn.double().flatten().cpu(), expected.double().flatten().cpu()
    cosine = float(torch.nn.functional.cosine_similarity(a, b, dim=0))
    return cosine, float((a - b).square().mean() / b.square().mean())
