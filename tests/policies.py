"""A policy without a model, whose answers can be worked out by hand, and a server around it in a thread."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from egem.episodes import ActionSpace
from egem.policy import DepthGuess, Observation, Policy, PolicyInfo
from egem.serving.config import ServingConfig
from egem.serving.server import PolicyServer

SPACE = ActionSpace(
    control="end_effector_delta",
    dim=3,
    rotation="axis_angle",
    gripper_dims=(2,),
    gripper_open=-1.0,
    gripper_closed=1.0,
)
INFO = PolicyInfo(
    name="sums",
    cameras=("image", "wrist_image"),
    state_dim=4,
    state_names=("a", "b", "c", "d"),
    action_space=SPACE,
    horizon=5,
    control_hz=10.0,
)


class SumsPolicy:
    """Action i of the chunk is (i, sum of the state, mean brightness of both pictures + length of the instruction).

    Of a previous chunk what is committed stays, and the rest is met half-way.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.seeds: list[int | None] = []
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()
        self.spoil: float | None = None
        """Put into the chunk's first number."""

    @property
    def info(self) -> PolicyInfo:
        return INFO

    def act(
        self,
        observations: Sequence[Observation],
        *,
        previous: Sequence[np.ndarray | None] | None = None,
        committed: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[np.ndarray]:
        self.calls += 1
        self.gate.wait(60)
        self.batches.append(len(observations))
        self.seeds.append(seed)
        if any(item.instruction == "raise" for item in observations):
            raise RuntimeError("secret path /etc/robot")
        chunks = [expected(item.images.values(), item.state, item.instruction) for item in observations]
        for number, chunk in enumerate(chunks):
            kept = None if previous is None else previous[number]
            if kept is not None:
                count = len(kept) if committed is None else committed[number]
                chunk[:count] = kept[:count]
                chunk[count : len(kept)] = (chunk[count : len(kept)] + kept[count:]) / 2
            if self.spoil is not None:
                chunk[0, 0] = self.spoil
        return chunks


class TalkingPolicy(SumsPolicy):
    """Also says something and draws depth."""

    def explain(self, observation: Observation, question: str) -> str:
        return f"{question} {observation.instruction}"

    def draw_depth(self, observation: Observation) -> dict[str, DepthGuess]:
        depth = observation.images["image"][..., 0].astype(np.float32) / 100
        return {"image": DepthGuess(values=depth, kind="metric")}


def expected(pictures, state, instruction: str) -> np.ndarray:
    chunk = np.zeros((INFO.horizon, 3), np.float32)
    chunk[:, 0] = np.arange(INFO.horizon)
    chunk[:, 1] = np.sum(state)
    chunk[:, 2] = sum(float(picture.mean()) for picture in pictures) + len(instruction)
    return chunk


def message(seed: int = 0, instruction: str = "pick up the cup") -> dict:
    rng = np.random.default_rng(seed)
    return {
        "observation/image": rng.integers(0, 255, (12, 16, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(0, 255, (8, 8, 3), dtype=np.uint8),
        "observation/state": rng.normal(size=4).astype(np.float32),
        "prompt": instruction,
    }


def answer_to(sent: dict) -> np.ndarray:
    pictures = (sent["observation/image"], sent["observation/wrist_image"])
    return expected(pictures, sent["observation/state"], sent["prompt"])


class Running:
    """A server in a thread."""

    def __init__(self, server: PolicyServer, url: str) -> None:
        self.server = server
        self.url = url
        self.http = url.replace("ws://", "http://")


@contextmanager
def serving(policy: Policy, *, rename: dict[str, str] | None = None, **options) -> Iterator[Running]:
    """Serve on a free port of this machine; yields once the port listens."""
    listening, failed, held = threading.Event(), [], {}

    async def run() -> None:
        held["server"] = PolicyServer(policy, ServingConfig(**({"port": 0} | options)), rename=rename)
        await held["server"].run(started=lambda _: listening.set())

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failed.append(error)
            listening.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert listening.wait(60)
    if failed:
        raise failed[0]
    try:
        yield Running(held["server"], f"ws://127.0.0.1:{held['server'].port}")
    finally:
        held["server"].stop()
        thread.join(60)
        assert not thread.is_alive()
