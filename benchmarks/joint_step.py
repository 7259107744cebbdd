"""Time the joint training step against the same model in a straightforward Hugging Face loop, in one run.

    python benchmarks/joint_step.py [--steps 12] [--rounds 3] [--out joint_step.json]

Ours: the step of `egem.training` on batches of 16 samples. The baseline does what a first implementation
does: one sample at a time through transformers' own forward (all logits, its own cross entropy) with the stock
image processor, chat template and Conv3d patch embedding, one image at a time through the stock Sana, gradients
accumulated to the same 16 samples. Both read the same records with the same turns in a sequence and take the
same optimizer. Rounds alternate; the medians of their ratios are the result.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from egem.data.depth import encode, target_size
from egem.data.loader import batches
from egem.data.order import ReadingOrder
from egem.data.prepare import Preparer
from egem.media import decode_depth
from egem.models.gem import GEM
from egem.models.presets import build
from egem.recipes import RECIPES
from egem.recipes.render import RenderConfig, render
from egem.shards import RecordGroups
from egem.training.distributed import World
from egem.training.host import keep_freed_memory
from egem.training.optimizer import freeze, make_optimizer
from egem.training.step import Clock, accumulate_gradient, draw_seed

BATCH = 16


def main() -> None:
    """Render records, time both loops in turn, print and store the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num", type=int, default=96, help="views to render")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    keep_freed_memory()
    dtype = getattr(torch, options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        data, checkpoint = Path(folder) / "data", Path(folder) / "checkpoint"
        render(RenderConfig(num=options.num, workers=1), data)
        build("tiny", seed=0).save_pretrained(checkpoint)
        rounds = [
            {
                "joint": ours(checkpoint, data, options.steps, dtype, depth=True),
                "language": ours(checkpoint, data, options.steps, dtype, depth=False),
                "baseline": baseline(checkpoint, data, max(1, options.steps // 4), dtype),
            }
            for _ in range(options.rounds)
        ]
    result = summary(rounds, options)
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def ours(checkpoint: Path, data: Path, steps: int, dtype: torch.dtype, *, depth: bool) -> dict[str, float]:
    """Samples and tokens a second of our step, and where its time goes."""
    model = GEM.from_pretrained(checkpoint)
    recipe = RECIPES["tiny"]()
    stage = replace(recipe.stages[-1], batch_size=BATCH, depth_weight=0.5 if depth else 0.0)
    freeze(model, stage)
    optimizer = make_optimizer(model, stage, recipe)
    groups = RecordGroups([data])
    order = ReadingOrder(len(groups), seed=0)
    preparer = Preparer.from_checkpoint(checkpoint)
    warm = 2
    loader = batches(
        groups, preparer, order, batch_size=BATCH, num_steps=steps + warm, workers=1, with_depth=depth
    )
    clock, parts, tokens = Clock(), {}, 0
    start = time.perf_counter()
    for step in range(steps + warm):
        if step == warm:
            clock, parts, tokens, start = Clock(), {}, 0, time.perf_counter()
        with clock.time("loader"):
            batch = next(loader)
        with parts_timed(model, parts):
            losses = accumulate_gradient(
                model,
                [batch],
                stage=stage,
                seeds=[draw_seed(0, "joint", step, 0)],
                device=torch.device("cpu"),
                dtype=dtype,
                world=World(),
                clock=clock,
            )
        with clock.time("optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += losses.num_tokens
    seconds = time.perf_counter() - start
    shares = {**parts, **{name: clock.seconds[name] for name in ("loader", "optimizer")}}
    shares["other"] = seconds - sum(shares.values())
    return {
        "samples_per_second": steps * BATCH / seconds,
        "tokens_per_second": tokens / seconds,
        "step_seconds": seconds / steps,
        **{f"share_{name}": value / seconds for name, value in shares.items()},
    }


@contextmanager
def parts_timed(model: GEM, seconds: dict[str, float]):
    """Seconds of vision tower, text layers, and heads, forward and backward, by hooks at their borders.

    A backward pass runs the heads first, then the text layers, then the vision tower: the time at which the
    gradient reaches a border splits it.
    """
    marks: dict[str, float] = {}
    now = time.perf_counter
    vision, text, depth = model.backbone._vision, model.backbone.run_layers, model.depth_loss

    def mark(name):
        def hook(gradient) -> None:
            marks.setdefault(name, now())

        return hook

    def timed(name, function):
        def run(*args, **kwargs):
            start = now()
            result = function(*args, **kwargs)
            seconds[name] = seconds.get(name, 0.0) + now() - start
            return result

        return run

    def timed_text(*args, **kwargs):
        embeddings = args[0]
        embeddings.register_hook(mark("vision"))
        result = timed("text", text)(*args, **kwargs)
        result.register_hook(mark("text"))
        return result

    language = model.backbone.language_loss

    def timed_language(*args, **kwargs):
        total, count = timed("language_head", language)(*args, **kwargs)
        total.register_hook(mark("language_head"))
        return total, count

    def timed_depth(*args, **kwargs):
        total, count = timed("depth", depth)(*args, **kwargs)
        total.register_hook(mark("depth"))
        return total, count

    replaced = {"run_layers": timed_text, "language_loss": timed_language}
    for name, function in replaced.items():
        object.__setattr__(model.backbone, name, function)
    object.__setattr__(model.backbone, "_vision", timed("vision", vision))
    object.__setattr__(model, "depth_loss", timed_depth)
    try:
        yield
    finally:
        end = now()
        for name in replaced:
            object.__delattr__(model.backbone, name)
        object.__setattr__(model.backbone, "_vision", vision)
        object.__delattr__(model, "depth_loss")
        order = sorted(marks, key=marks.__getitem__)
        for name, following in zip(order, [*order[1:], None], strict=True):
            stop = end if following is None else marks[following]
            seconds[name] = seconds.get(name, 0.0) + stop - marks[name]


def baseline(checkpoint: Path, data: Path, steps: int, dtype: torch.dtype) -> dict[str, float]:
    """Samples a second of the straightforward loop."""
    gem = GEM.from_pretrained(checkpoint)
    sana, connector, codec, policy = gem.depth_head.sana, gem.connector, gem.depth_codec, gem.config.depth
    qwen = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "backbone")
    processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint / "backbone")
    parameters = [*qwen.parameters(), *sana.parameters(), *connector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    groups = RecordGroups([data])
    order = ReadingOrder(len(groups), seed=0)
    image_id = qwen.config.image_token_id
    merge = qwen.config.vision_config.spatial_merge_size**2
    tokens, start = 0, 0.0
    for step in range(-1, steps):
        if step == 0:
            tokens, start = 0, time.perf_counter()
        for index in order.groups(step + 1, BATCH):
            records = groups[index]
            image = Image.open(io.BytesIO(records[0].images[0].data)).convert("RGB")
            vision = processor(images=[image], return_tensors="pt")
            messages = [{"role": m.role, "content": m.content} for r in records for m in r.messages]
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            count = int(vision["image_grid_thw"].prod()) // merge
            pads = "<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>"
            text = text.replace("<image>", pads, 1).replace("<image>", "").replace("user\n\n", "user\n")
            ids = tokenizer(text, return_tensors="pt").input_ids
            labels = spans(ids[0], tokenizer)[None]
            depth = decode_depth(records[0].depths[0])
            height, width = (int(v) * 8 for v in vision["image_grid_thw"][0, 1:])
            size = target_size(height, width, policy)
            pixels = torch.from_numpy(encode(depth, size, policy, image_size=(height, width)).pixels)[None]
            latents = codec.encode(pixels)
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                out = qwen(
                    input_ids=ids,
                    labels=labels,
                    pixel_values=vision["pixel_values"],
                    image_grid_thw=vision["image_grid_thw"],
                    mm_token_type_ids=(ids == image_id).int(),
                    output_hidden_states=True,
                )
                condition = connector(out.hidden_states[-1][ids == image_id][None])
                t = torch.rand(1)
                noise = torch.randn_like(latents)
                predicted = sana(
                    hidden_states=(1 - t) * latents + t * noise,
                    encoder_hidden_states=condition,
                    timestep=1000 * t,
                ).sample
            flow = (predicted.float() - (noise - latents)).square().mean()
            ((out.loss + 0.5 * flow) / BATCH).backward()
            tokens += ids.shape[1]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return {
        "samples_per_second": steps * BATCH / seconds,
        "tokens_per_second": tokens / seconds,
        "step_seconds": seconds / steps,
    }


def spans(ids: torch.Tensor, tokenizer) -> torch.Tensor:
    """Labels by scanning for the assistant's header, as first implementations do."""
    labels = torch.full_like(ids, -100)
    header = tokenizer("<|im_start|>assistant\n").input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    values, i = ids.tolist(), 0
    while i < len(values):
        if values[i : i + len(header)] == header:
            i += len(header)
            while i < len(values):
                labels[i] = values[i]
                if values[i] == end:
                    break
                i += 1
        i += 1
    return labels


def summary(rounds: list[dict[str, dict[str, float]]], options: argparse.Namespace) -> dict:
    """Medians over rounds, ratios within rounds, and what it ran on."""

    def median(loop: str) -> dict[str, float]:
        return {k: round(statistics.median(r[loop][k] for r in rounds), 4) for k in rounds[0][loop]}

    rate = "samples_per_second"
    speedup = [r["joint"][rate] / r["baseline"][rate] for r in rounds]
    cost = [r["joint"]["step_seconds"] / r["language"]["step_seconds"] - 1 for r in rounds]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    return {
        "speedup_over_baseline": {"median": statistics.median(speedup), "rounds": speedup},
        "extra_time_of_depth_branch": {"median": statistics.median(cost), "rounds": cost},
        **{loop: median(loop) for loop in rounds[0]},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}",
        "dtype": options.dtype,
        "commit": commit.strip(),
    }


if __name__ == "__main__":
    main()
