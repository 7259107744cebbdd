"""`egem eval`: scores with counts and confidence intervals."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from egem.cli.options import parse


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a checkpoint on benchmarks; a killed run goes on where it stopped."""

    checkpoint: Positional[Path]
    """Checkpoint folder."""
    benchmarks: tuple[str, ...] = ("tabletop",)
    """Names from `egem eval --list`, or records:FOLDER for any folder of records."""
    out: Path | None = None
    """Folder for answers, scores and report.html; CHECKPOINT/../eval otherwise."""
    cache: Path = Path("data/benchmarks")
    """Where rendered benchmarks are kept."""
    num: int | None = None
    """Only so many views of each benchmark."""
    image_size: tuple[int, int] = (96, 96)
    """Height and width of rendered benchmarks."""
    seed: int = 0
    """Of rendered benchmarks and of the noise that depth starts from."""
    batch_size: int = 32
    """Questions at a time; never changes an answer."""
    max_new_tokens: int = 64
    """Longest answer in tokens."""
    depth: bool = True
    """Also draw depth and measure it."""
    depth_images: int | None = 100
    """Only the first so many images with depth."""
    steps: int | None = None
    """Sampling steps of depth; the checkpoint's default otherwise."""
    guidance: float | None = None
    """Guidance of depth; the checkpoint's default otherwise."""
    training_data: tuple[Path, ...] = ()
    """Record folders that blind guesses are learned from and whose mean depth map is the depth baseline."""
    device: str = "auto"
    """`auto` takes a GPU if there is one."""


def evaluate(arguments: list[str]) -> None:
    """Run the benchmarks, print their tables, write a page."""
    if arguments[:1] == ["--list"]:
        from egem.evaluation.benchmarks import BENCHMARKS

        for name, (_, line) in BENCHMARKS.items():
            print(f"  {name:<24} {line}")
        print(f"  {'records:FOLDER':<24} any folder of records")
        return
    options = parse(EvaluateOptions, "eval", arguments)
    from egem.evaluation.benchmarks import BenchmarkOptions, open_benchmark
    from egem.evaluation.depth_run import DepthOptions
    from egem.evaluation.predictor import Predictor
    from egem.evaluation.runner import RunOptions, run
    from egem.recipes.pages import Evaluated, make_report
    from egem.report.page import write_report

    out = options.out or options.checkpoint.parent / "eval"
    sizes = BenchmarkOptions(
        cache=options.cache, num_groups=options.num, image_size=options.image_size, seed=options.seed
    )
    depth = DepthOptions(
        num_images=options.depth_images,
        num_steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
    )
    running = RunOptions(
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        depth=depth if options.depth else None,
        training_data=options.training_data,
    )
    benchmarks = [open_benchmark(name, sizes) for name in options.benchmarks]
    predictor = Predictor.from_checkpoint(options.checkpoint, device=options.device)
    evaluated = []
    for benchmark in benchmarks:
        folder = out / benchmark.name.replace(":", "-").replace("/", "-")
        scores = run(benchmark, predictor, folder, running)
        print((folder / "scores.md").read_text())
        evaluated.append(Evaluated(benchmark=benchmark, folder=folder, scores=scores))
    shown = predictor if options.depth else None
    report = make_report(f"Scores of {options.checkpoint}", evaluated=evaluated, predictor=shown)
    print(f"report: {write_report(out / 'report.html', report)}")
