"""`egem eval`: scores with counts and confidence intervals."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from egem.cli.options import parse
from egem.core.errors import ConfigError
from egem.core.files import locked


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Score a checkpoint on benchmarks; a killed run goes on where it stopped.

    On several GPUs: torchrun --nproc-per-node 8 -m egem -- eval ...
    """

    model: Positional[str]
    """Checkpoint folder; http://HOST:PORT/v1 of an OpenAI-compatible server (with --model-name; its key in
    EGEM_MODEL_KEY); or a JSON lines file with answers that something else gave."""
    benchmarks: tuple[str, ...] = ("tabletop",)
    """Names from `egem eval --list`, each alone (from the Hugging Face hub) or as NAME=FOLDER, or
    records:FOLDER for any folder of records."""
    rule: str | None = None
    """Whose way of asking and scoring a published benchmark: official, lmms-eval, vlmevalkit, ...; the
    benchmark's first when not given. `egem eval --rules NAME` lists them."""
    frames: int | None = None
    """Frames of a video; the rule's number otherwise."""
    model_name: str | None = None
    """The name a server knows its model by."""
    judge_url: str | None = None
    """OpenAI-compatible server that marks open answers (OpenEQA); its key in EGEM_JUDGE_KEY."""
    judge_model: str = "gpt-4-1106-preview"
    """Model of the judge; the benchmark's own by default."""
    out: Path | None = None
    """Folder for answers, scores and report.html; beside the checkpoint in eval/ otherwise."""
    cache: Path = Path("data/benchmarks")
    """Where rendered benchmarks are kept."""
    num: int | None = None
    """Only so many views (images, videos) of each benchmark, spread over a published one."""
    image_size: tuple[int, int] = (96, 96)
    """Height and width of rendered benchmarks."""
    seed: int = 0
    """Of rendered benchmarks and of the noise that depth starts from."""
    batch_size: int = 32
    """Questions at a time (of a server: requests at a time); never changes an answer."""
    max_new_tokens: int | None = None
    """Longest answer; as the benchmark's rule says, else 64."""
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
    """`auto` takes a GPU if there is one; under torchrun each process its own."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare two results of one benchmark question by question."""

    first: Positional[Path]
    """Folder of one benchmark's result (with answers.jsonl)."""
    second: Positional[Path]
    """Folder of the other."""
    out: Path | None = None
    """Folder for comparison.json, comparison.md and comparison.html; printed only otherwise."""


def evaluate(arguments: list[str]) -> None:
    """Run the benchmarks, print their tables, write a page; or list, or compare."""
    if arguments[:1] == ["--list"]:
        _list()
    elif arguments[:1] == ["--rules"]:
        _rules(arguments[1:])
    elif arguments[:1] == ["--compare"]:
        _compare(parse(CompareOptions, "eval --compare", arguments[1:]))
    else:
        _run(parse(EvaluateOptions, "eval", arguments))


def _run(options: EvaluateOptions) -> None:
    from egem.evaluation.answers_file import AnswersFile
    from egem.evaluation.benchmarks import BenchmarkOptions, open_benchmark
    from egem.evaluation.runner import run, share_work
    from egem.evaluation.sharding import World
    from egem.recipes.pages import Evaluated, make_report, run_of
    from egem.report.page import write_report

    sizes = BenchmarkOptions(
        cache=options.cache,
        num_groups=options.num,
        image_size=options.image_size,
        seed=options.seed,
        rule=options.rule,
        frames=options.frames,
    )
    running = _run_options(options)
    out = options.out or _beside(options.model)
    world = World.from_environment()
    if not world.is_first:
        world.wait()  # a world is rendered, or a data set fetched, once
    benchmarks = [open_benchmark(name, sizes) for name in options.benchmarks]
    if world.is_first:
        world.wait()
    model = _model(options, world.rank)
    evaluated = []
    for benchmark in benchmarks:
        if isinstance(model, AnswersFile):
            model.check(benchmark.name, (record.id for record in benchmark.questions()))
        folder = out / benchmark.name.replace(":", "-").replace("/", "-")
        with locked(folder / ".lock", wait=False) if world.is_first else nullcontext(True) as mine:
            if not mine:
                raise ConfigError(
                    f"another evaluation writes into {folder}; wait for it, or choose another --out."
                )
            share_work(benchmark, model, folder, running, world)
            if not world.is_first:
                continue
            scores = run(benchmark, model, folder, running)
            print((folder / "scores.md").read_text())
            evaluated.append(
                Evaluated(benchmark=benchmark, folder=folder, scores=scores, depth=running.depth)
            )
    if world.is_first:
        from egem.evaluation.predictor import Predictor

        shown = model if options.depth and isinstance(model, Predictor) else None
        run_folder = run_of(Path(options.model))
        report = make_report(
            f"Scores of {options.model}", run=run_folder, evaluated=evaluated, predictor=shown
        )
        print(f"report: {write_report(out / 'report.html', report)}")
    world.wait()


def _run_options(options: EvaluateOptions) -> Any:
    from egem.evaluation.chat import JUDGE_KEY, ChatServer
    from egem.evaluation.depth_run import DepthOptions
    from egem.evaluation.judge import SEED, TEMPERATURE, Judge
    from egem.evaluation.runner import RunOptions

    judge = None
    if options.judge_url is not None:
        server = ChatServer(
            url=options.judge_url,
            model=options.judge_model,
            key_variable=JUDGE_KEY,
            temperature=TEMPERATURE,
            seed=SEED,
        )
        judge = Judge(server=server)
    depth = DepthOptions(
        num_images=options.depth_images,
        num_steps=options.steps,
        guidance=options.guidance,
        seed=options.seed,
    )
    return RunOptions(
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        depth=depth if options.depth else None,
        training_data=options.training_data,
        judge=judge,
    )


def _model(options: EvaluateOptions, rank: int) -> Any:
    """What answers: a server, a file of answers, or a checkpoint.

    Raises:
        ConfigError: a server without the name of its model.
        CheckpointError, RecordError: not a checkpoint, not a file of answers.
    """
    if options.model.startswith(("http://", "https://")):
        from egem.evaluation.chat import MODEL_KEY, ChatServer
        from egem.evaluation.endpoint import Endpoint

        if options.model_name is None:
            raise ConfigError(
                f"{options.model} is a server: give --model-name, the name it knows its model by "
                f"(`curl {options.model.rstrip('/')}/models` lists them)."
            )
        server = ChatServer(url=options.model, model=options.model_name, key_variable=MODEL_KEY)
        return Endpoint(server)
    path = Path(options.model)
    if path.suffix in (".json", ".jsonl"):
        from egem.evaluation.answers_file import AnswersFile

        return AnswersFile(path)
    from egem.evaluation.predictor import Predictor

    device = options.device
    if device == "auto" and "LOCAL_RANK" in os.environ:
        import torch

        local = int(os.environ["LOCAL_RANK"])
        device = f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    return Predictor.from_checkpoint(path, device=device)


def _beside(model: str) -> Path:
    if model.startswith(("http://", "https://")):
        return Path("eval")
    return Path(model).parent / "eval"


def _list() -> None:
    from egem.evaluation.benchmarks import BENCHMARKS

    for name, (_, line) in BENCHMARKS.items():
        print(f"  {name:<24} {line}")
    print(f"  {'records:FOLDER':<24} any folder of records")


def _rules(names: list[str]) -> None:
    from egem.core.errors import unknown_name
    from egem.evaluation.benchmarks import BENCHMARKS, rules_of

    for name in names or list(BENCHMARKS):
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
        for number, rule in enumerate(rules_of(name)):
            first = " (used unless another is asked for)" if number == 0 else ""
            print(f"  {name:<20} {rule.name:<16} {rule.reference}{first}")


def _compare(options: CompareOptions) -> None:
    from egem.core.config import save_json
    from egem.core.files import write_atomically
    from egem.evaluation.compare import compare, comparison_markdown
    from egem.recipes.pages import comparison_report
    from egem.report.page import write_report

    found = compare(options.first, options.second)
    print(comparison_markdown(found))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        save_json(found, options.out / "comparison.json")
        write_atomically(options.out / "comparison.md", comparison_markdown(found).encode())
        page = write_report(options.out / "comparison.html", comparison_report(found))
        print(f"page: {page}")
