"""A rollout: many episodes of some tasks, in parallel processes, stopped and continued at will."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from egem.core.errors import ConfigError, unknown_name
from egem.core.files import locked
from egem.environments import ENVIRONMENTS, EnvironmentOptions, check_policy
from egem.environments.environment import DEMONSTRATION_SEED, Environment, EnvironmentInfo, check_task
from egem.evaluation.journal import Journal
from egem.policy import DepthGuess, Explains, Observation, Policy
from egem.rollout.episode import Actor, Job, Noise, NoiseOf, Reply, play
from egem.rollout.recording import read_notes, write_dataset
from egem.rollout.renamed import renamed
from egem.rollout.summary import Summary, summarise, write_summary
from egem.rollout.workers import Question, Workers


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How episodes are played and kept."""

    env: str = "tabletop"
    """tabletop, libero or simpler-widowx."""
    tasks: tuple[str, ...] = ()
    """Names of tasks; all of them if none is given."""
    episodes: int = 20
    """Of each task."""
    seed: int | None = None
    """Of the first episode of each task; the next ones follow. 0, or 1000000 with --record, unless given."""
    out: Path = Path("rollout")
    """Folder of the results; a run that was stopped goes on where it was."""
    record: Path | None = None
    """Folder of a LeRobot dataset, with depth, of the episodes that succeed."""
    replay: Path | None = None
    """Play the recorded actions of such a dataset in its scenes, instead of a policy's."""
    workers: int | None = None
    """Processes; one for each processor core unless given; 0 plays everything in this process."""
    execute: int | None = None
    """Actions of a chunk that are carried out before the policy looks again; all unless given."""
    rename: tuple[str, ...] = ()
    """POLICY=ENVIRONMENT: cameras that the policy's training data called otherwise, e.g. image_0=image."""
    noise: float = 0.0
    """Of the expert's executed actions, as a share of what `noise_of` says; what is recorded stays clean."""
    noise_of: NoiseOf = "limits"
    """`limits` of the actions: strays far, arrives nowhere exactly. `moves`: how far each action
    goes, so that the expert arrives."""
    films: int = 1
    """Episodes of each task that are filmed: RGB, the simulator's depth, and the depth that a checkpoint draws."""
    batched: bool = False
    """Answer all waiting episodes in one call: faster on a GPU, but the sampling noise then depends on timing."""
    size: tuple[int, int] | None = None
    """Height and width of the pictures, where the environment can choose; those that the policy was trained on unless
    given, or the environment's own."""
    scenery: str = "plain"
    """plain or varied: whether the tabletop's room, light and cameras are drawn from the seed."""
    assets: Path | None = None
    """Folder that the simulator needs (libero, simpler-widowx)."""
    python: Path | None = None
    """Interpreter of the simulator's own environment (libero, simpler-widowx)."""


class RandomPolicy:
    """Uniform actions within the environment's limits: what success without a policy looks like."""

    def __init__(self, environment: EnvironmentInfo, horizon: int = 8) -> None:
        self._low = np.maximum(environment.action_low, -1.0)
        self._high = np.minimum(environment.action_high, 1.0)
        self._horizon = horizon

    def act(self, seed: int) -> Float[np.ndarray, "horizon action"]:
        """One chunk."""
        rng = np.random.default_rng(seed)
        return rng.uniform(self._low, self._high, (self._horizon, len(self._low))).astype(np.float32)


def rollout(config: RolloutConfig, actor: str, policy: Policy | None = None) -> Summary:
    """Play all episodes that the journal does not hold yet, then count.

    Args:
        config: see there.
        actor: "expert", "random", "replay", or what a policy is called in the results.
        policy: whose actions are played; None for the first three.

    Raises:
        ConfigError: environment or task unknown, a policy that does not fit, options that exclude each other, or
            another rollout plays into the same folder.
        CheckpointError: the folder holds results of something else.
        SimulatorError: the simulator dies again and again.
    """
    options = _checked(config, actor, policy)
    if config.rename:
        if policy is None:
            raise ConfigError("--rename is for a policy's cameras; leave it out.")
        policy = renamed(policy, config.rename)
    with locked(config.out / ".lock", wait=False) as mine:
        if not mine:
            raise ConfigError(
                f"another rollout plays into {config.out}; wait for it, or choose another --out."
            )
        if config.workers == 0:
            with _Here(config.env, options) as here:
                return _play_all(config, options, actor, policy, here.environment.info, here.play)
        count = config.workers or len(os.sched_getaffinity(0))
        batched = policy if config.batched else None
        with Workers(config.env, options, count=count) as workers:
            return _play_all(
                config, options, actor, policy, workers.info, partial(_answered, workers, batched)
            )


Ask = Callable[[Job, Observation, int], Reply]
PlayJobs = Callable[[list[Job], Ask], Iterator[dict[str, Any]]]


def _play_all(
    config: RolloutConfig,
    options: EnvironmentOptions,
    actor: str,
    policy: Policy | None,
    info: EnvironmentInfo,
    play_jobs: PlayJobs,
) -> Summary:
    if policy is not None:
        check_policy(policy.info, info)
    jobs = _jobs(config, actor, info)
    journal = Journal(config.out / "episodes.jsonl", _identity(config, options, actor, policy, info))
    done = {id for id, entry in journal.entries.items() if entry["status"] != "crash"}
    missing = [job for job in jobs if job.id not in done or _lacks_part(job, journal)]
    random = RandomPolicy(info) if actor == "random" else None

    def ask(job: Job, seen: Observation, number: int) -> Reply:
        seed = noise_seed(job, number)
        if random is not None:
            return Reply(chunk=random.act(seed))
        assert policy is not None
        return Reply(chunk=policy.act([seen], seed=seed)[0], drawn=_drawn(policy, job, seen))

    began = time.perf_counter()
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="episode", disable=None) as bar:
        for entry in play_jobs(missing, ask):
            journal.append([entry])
            bar.update()
    seconds = time.perf_counter() - began
    asked = {job.id: None for job in jobs}
    journal.sort([*asked, *(id for id in journal.entries if id not in asked)])
    entries = [journal.entries[job.id] for job in jobs]
    summary = summarise(
        entries,
        actor=actor,
        info=info,
        rate=60 * len(missing) / seconds if missing else None,
    )
    write_summary(summary, entries, config.out)
    if config.record is not None:
        parts = [(Path(job.record or ""), entry) for job, entry in zip(jobs, entries, strict=True)]
        kept = [(path, entry) for path, entry in parts if entry["status"] == "success"]
        settings = {"size": list(options.size), "scenery": config.scenery, **_noise(config)}
        write_dataset(kept, info, config.record, settings)
        shutil.rmtree(config.out / "parts")
    return summary


def noise_seed(job: Job, number: int) -> int:
    """Of the sampling noise of one chunk: the same whatever else is played, and whenever."""
    return int(np.random.SeedSequence([job.seed, number, *job.task.encode()]).generate_state(1)[0])


class _Here:
    """An environment in this process, opened anew after a crash."""

    def __init__(self, name: str, options: EnvironmentOptions) -> None:
        self._open = partial(ENVIRONMENTS[name].open, options)
        self.environment: Environment = self._open()

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *exception: object) -> None:
        self.environment.close()

    def play(self, jobs: list[Job], ask: Ask) -> Iterator[dict[str, Any]]:
        """Entries of the jobs, one after the other."""
        for job in jobs:
            entry = play(self.environment, job, partial(ask, job))
            if entry["status"] == "crash":
                self.environment.close()
                self.environment = self._open()
            yield entry


def _answered(
    workers: Workers, batched: Policy | None, jobs: list[Job], ask: Ask
) -> Iterator[dict[str, Any]]:
    """Entries of the jobs, with the workers' questions answered in between."""
    for found in workers.play(jobs):
        if isinstance(found, dict):
            yield found
        elif batched is not None:
            seed = noise_seed(found[0].job, found[0].number)
            chunks = batched.act([question.observation for question in found], seed=seed)
            for question, chunk in zip(found, chunks, strict=True):
                drawn = _drawn(batched, question.job, question.observation)
                _give(question, Reply(chunk=chunk, drawn=drawn))
        else:
            for question in found:
                _give(question, ask(question.job, question.observation, question.number))


def _drawn(policy: Policy, job: Job, seen: Observation) -> Mapping[str, DepthGuess]:
    """What the policy's checkpoint sees, for films alone: drawing takes longer than acting."""
    return policy.draw_depth(seen) if job.film is not None and isinstance(policy, Explains) else {}


def _give(question: Question, reply: Reply) -> None:
    # A worker that died meanwhile is found by its closed connection at the next turn.
    try:
        question.worker.answer(reply)
    except (BrokenPipeError, OSError):
        return


def _checked(config: RolloutConfig, actor: str, policy: Policy | None) -> EnvironmentOptions:
    if config.env not in ENVIRONMENTS:
        raise unknown_name("environment", config.env, ENVIRONMENTS)
    if config.scenery not in ("plain", "varied"):
        raise unknown_name("scenery", config.scenery, ("plain", "varied"))
    if config.episodes < 1:
        raise ConfigError(f"--episodes {config.episodes}: at least one episode of each task is needed.")
    if config.noise and actor != "expert":
        raise ConfigError("--noise is for the expert; a policy's actions are executed as they are.")
    if config.execute is not None and config.execute < 1:
        raise ConfigError(
            f"--execute {config.execute}: at least one action of a chunk has to be carried out."
        )
    record = config.record
    if record is not None and actor == "replay":
        raise ConfigError(
            "--record with --replay would copy what is recorded already; leave one of them out."
        )
    if record is not None and record.exists() and (not record.is_dir() or any(record.iterdir())):
        raise ConfigError(f"--record {record} exists already; choose another folder or remove it first.")
    # An environment draws all its cameras at one size.
    trained = set() if policy is None else set(policy.info.picture_sizes)
    own = trained.pop() if len(trained) == 1 else ENVIRONMENTS[config.env].size
    return EnvironmentOptions(
        size=config.size or own,
        scenery="plain" if config.scenery == "plain" else "varied",
        assets=config.assets,
        python=config.python,
    )


def _jobs(config: RolloutConfig, actor: str, info: EnvironmentInfo) -> list[Job]:
    tasks = config.tasks or info.tasks
    for task in tasks:
        check_task(task, info)
    if actor == "replay":
        assert config.replay is not None
        found = [j for j in read_notes(config.replay, info) if j[0] in tasks]
        if not found:
            raise ConfigError(f"{config.replay} holds no episode of {', '.join(tasks)}.")
        counts: dict[str, int] = {}
        jobs = []
        for task, seed, actions in found:
            counts[task] = counts.get(task, 0) + 1
            if counts[task] <= config.episodes:
                jobs.append(Job(task=task, seed=seed, actor="replay", actions=actions))
        return [_with_film(job, config, number) for number, job in _numbered(jobs)]
    kind: Actor = "expert" if actor == "expert" else "policy"
    noise = Noise(share=config.noise, of=config.noise_of) if config.noise else None
    first = config.seed if config.seed is not None else (DEMONSTRATION_SEED if config.record else 0)
    jobs = [
        Job(task=task, seed=first + k, actor=kind, execute=config.execute, noise=noise)
        for k in range(config.episodes)
        for task in tasks
    ]
    jobs = [_with_film(job, config, number) for number, job in _numbered(jobs)]
    if config.record is None:
        return jobs
    return [replace(job, record=str(config.out / "parts" / f"{_file_name(job)}.npz")) for job in jobs]


def _noise(config: RolloutConfig) -> dict[str, Any]:
    """As it is stored: without noise nobody asks of what, and rollouts begun before there was a choice go on."""
    return {"noise": config.noise, **({"noise_of": config.noise_of} if config.noise else {})}


def _numbered(jobs: Sequence[Job]) -> Iterator[tuple[int, Job]]:
    """Each with its number among the jobs of its task."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.task] = counts.get(job.task, -1) + 1
        yield counts[job.task], job


def _with_film(job: Job, config: RolloutConfig, number: int) -> Job:
    if number >= config.films:
        return job
    return replace(job, film=str(config.out / "films" / f"{_file_name(job)}.mp4"))


def _file_name(job: Job) -> str:
    return f"{job.task.replace('/', '-')}-{job.seed}"


def _lacks_part(job: Job, journal: Journal) -> bool:
    """Whether a success of an earlier run was not recorded, or its part is gone."""
    entry = journal.entries.get(job.id)
    return bool(job.record and entry and entry["status"] == "success" and not Path(job.record).exists())


def _identity(
    config: RolloutConfig,
    options: EnvironmentOptions,
    actor: str,
    policy: Policy | None,
    info: EnvironmentInfo,
) -> dict[str, Any]:
    """What decides an episode's outcome; more episodes or tasks continue a run."""
    identity: dict[str, Any] = {
        "environment": config.env,
        "note": info.note,
        "actor": actor,
        "execute": config.execute,
        **_noise(config),
        "size": list(options.size),
        "scenery": config.scenery,
        "batched": config.batched,
    }
    if policy is not None:
        identity["policy"] = f"{policy.info.name} {policy.info.fingerprint}".strip()
    if config.rename:
        identity["rename"] = list(config.rename)
    if config.replay is not None:
        notes = (config.replay / "meta" / "info.json").read_bytes() if config.replay.is_dir() else b""
        identity["replay"] = f"{config.replay} {hashlib.sha256(notes).hexdigest()[:12]}"
    return identity
