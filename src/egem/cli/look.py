"""`egem ask` and `egem depth`: look at what a checkpoint learned."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tyro.conf import Positional, UseAppendAction

from egem.cli.options import parse
from egem.core.errors import ConfigError
from egem.core.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Ask a checkpoint about one or more images, or about a video."""

    checkpoint: Positional[Path]
    """Checkpoint folder."""
    question: Positional[str]
    """What to ask. Images come before it; write <image> in it to place them elsewhere."""
    image: UseAppendAction[tuple[Path, ...]] = ()
    """An image file; repeat for several."""
    video: Path | None = None
    """A video file; its frames are read as images with their timestamps."""
    frames: int = 8
    """Frames to take from the video, evenly spread."""
    max_new_tokens: int = 128
    """Longest answer, in tokens."""
    temperature: float = 0.0
    """0 takes the likeliest word each time; above 0 draws."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""
    device: str = "auto"
    """`auto` takes a GPU if there is one."""


@dataclass(frozen=True, kw_only=True)
class DepthOptions:
    """Let a checkpoint draw the depth of an image."""

    checkpoint: Positional[Path]
    """Checkpoint folder."""
    image: Path
    """The image file."""
    out: Path = Path("depth.png")
    """Colour map to write. Beside it: NAME.depth.png (16 bits) and NAME.panel.png."""
    steps: int | None = None
    """Sampling steps; the checkpoint's default otherwise."""
    guidance: float | None = None
    """Classifier-free guidance; the checkpoint's default otherwise."""
    seed: int = 0
    """Of the noise that the drawing starts from."""
    truth: Path | None = None
    """A 16-bit depth PNG to show and compare with."""
    truth_unit_m: float = 0.001
    """Metres per count of it."""
    ply: Path | None = None
    """Also write a coloured point cloud (metric depth only)."""
    intrinsics: tuple[float, float, float, float] | None = None
    """fx fy cx cy in pixels for the point cloud; a camera of 60 degrees is assumed otherwise."""
    device: str = "auto"
    """`auto` takes a GPU if there is one."""


def ask(arguments: list[str]) -> None:
    """Print the answer."""
    options = parse(AskOptions, "ask", arguments)
    from egem.records import IMAGE_MARK, Message

    if options.video is not None and options.image:
        raise ConfigError("give either --image or --video, not both.")
    images, timestamps = [_image(path) for path in options.image], None
    if options.video is not None:
        from egem.video import read_frames

        images, timestamps = read_frames(options.video, num=options.frames)
    question = options.question
    if IMAGE_MARK not in question:
        question = IMAGE_MARK * len(images) + question

    import torch

    from egem.evaluation.predictor import Predictor

    predictor = Predictor.from_checkpoint(options.checkpoint, device=options.device)
    sample = predictor.preparer.prompt(
        [Message(role="user", content=question)], images, timestamps=timestamps
    )
    tokens = predictor.model.generate_text(
        [sample],
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        generator=torch.Generator().manual_seed(options.seed),
    )
    print(predictor.preparer.tokenizer.decode(tokens[0]).strip())


def depth(arguments: list[str]) -> None:
    """Write colour map, 16-bit map, panel and, if asked for, a point cloud."""
    options = parse(DepthOptions, "depth", arguments)
    image = _image(options.image)
    truth = None
    if options.truth is not None:
        from egem.media import decode_depth
        from egem.records import DepthFile

        truth = decode_depth(DepthFile(path=str(options.truth), unit_m=options.truth_unit_m))
        if truth.shape != image.shape[:2]:
            raise ConfigError(
                f"{options.truth} has {truth.shape[1]} x {truth.shape[0]} pixels, the image "
                f"{image.shape[1]} x {image.shape[0]}; they must be of one size."
            )

    from egem.evaluation.depth import align, depth_range, measure, resized
    from egem.evaluation.predictor import Predictor
    from egem.report.panels import DepthPicture, colorize, depth_png, png, side_by_side, unit_for

    predictor = Predictor.from_checkpoint(options.checkpoint, device=options.device)
    if options.ply is not None and predictor.preparer.depth.encoding != "log":
        raise ConfigError(
            f"{options.checkpoint} draws relative depth, which has no points in metres; leave --ply out."
        )
    drawn = predictor.draw_depth(
        [image], num_steps=options.steps, guidance=options.guidance, seed=options.seed
    )[0]
    metric = drawn.kind == "metric"
    values = resized(drawn.values, image.shape[:2], inverse=not metric).astype(np.float32)
    # Inverse depth is turned into something that grows with distance, so that near is red in every picture.
    distance = values if metric else 1.0 / np.maximum(values, 0.02)
    shown = distance
    if truth is not None:
        family = "depth-affine" if metric else "disparity-affine"
        shown = align(values, truth, family, depth_range([truth])).astype(np.float32)
        found = measure(shown, truth)
        print(f"after alignment ({family}): AbsRel {found.abs_rel:.3f}, delta1 {found.delta1:.3f}")
        if metric:
            raw = measure(values, truth)
            print(f"as drawn, in metres: AbsRel {raw.abs_rel:.3f}, delta1 {raw.delta1:.3f}")

    out = options.out
    meaning = "depth in metres" if metric else "relative inverse depth, 1 = nearest"
    unit = unit_for(values, metric=metric)
    picture = DepthPicture(image=image, truth=truth, generated=shown)
    write_atomically(out, png(colorize(distance)))
    write_atomically(out.with_suffix(".depth.png"), depth_png(values, unit, meaning))
    panel = side_by_side(picture, unit="m" if metric or truth is not None else None)
    write_atomically(out.with_suffix(".panel.png"), png(panel))
    print(f"{out}: colour map; {out.with_suffix('.depth.png')}: 16 bits, {unit:g} a count, {meaning}")
    if options.ply is not None:
        _write_cloud(options, image, values)


def _write_cloud(options: DepthOptions, image: np.ndarray, depth: np.ndarray) -> None:
    from egem.records import Intrinsics
    from egem.report.pointcloud import assumed_intrinsics, ply

    if options.intrinsics is None:
        camera = assumed_intrinsics(*image.shape[:2])
    else:
        fx, fy, cx, cy = options.intrinsics
        camera = Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy)
    assert options.ply is not None
    write_atomically(options.ply, ply(image, depth, camera))
    print(f"{options.ply}: point cloud, {'given' if options.intrinsics else 'assumed'} camera")


def _image(path: Path) -> np.ndarray:
    from egem.media import decode_image
    from egem.records import ImageFile

    return decode_image(ImageFile(path=str(path)))
