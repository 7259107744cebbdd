"""A policy server under load and under fire: latency by quantile, and what hostile frames do to it.

    python benchmarks/serving.py                      10,000 hostile frames, then 4 clients with 500 observations each
    python benchmarks/serving.py --policy CHECKPOINT  the same with a checkpoint instead of a policy that takes no time
    python benchmarks/serving.py --work-ms 30         with a policy that sleeps for 30 ms a call

Prints one JSON object. With the free policy it times what the server adds; pictures are 2 x 224 x 224.
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
from egem_client import RemotePolicy, pack, unpack
from egem_client.wire import Limits
from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from hostile_frames import hostile_frames
from policies import SumsPolicy, answer_to, serving


class WorkingPolicy(SumsPolicy):
    """Takes a given time a call, however many observations it holds."""

    def __init__(self, work_ms: float) -> None:
        super().__init__()
        self._work_s = work_ms / 1000

    def act(self, observations, *, previous=None, committed=None, seed=None):
        """Sums, late."""
        time.sleep(self._work_s)
        return super().act(observations, previous=previous, committed=committed, seed=seed)


def observation(policy, seed: int, side: int = 224) -> dict:
    """A random one that the policy takes."""
    rng = np.random.default_rng(seed)
    info = policy.info
    message = {
        f"observation/{name}": rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for name in info.cameras
    }
    return message | {
        "observation/state": rng.normal(size=info.state_dim).astype(np.float32),
        "prompt": "pick up the cup",
    }


def under_fire(policy, num: int) -> dict:
    """Send hostile frames, each with a check of its answer; every 500th an honest one, whose answer must be right."""
    sent = observation(policy, 0, side=24)
    checked = isinstance(policy, SumsPolicy)
    answers: dict[str, int] = {}
    wrong, honest = 0, 0
    began = time.monotonic()
    with serving(policy, max_message_mb=0.05) as server:
        ready(server.url)
        with connect(server.url, compression=None) as connection:
            connection.recv()
            for number, (kind, frame, allowed) in enumerate(hostile_frames(pack(sent), num=num, seed=1)):
                connection.send(frame)
                reply = connection.recv(timeout=120)
                if isinstance(reply, bytes):
                    code = "actions"
                    wrong += kind != "flipped" or not np.isfinite(unpack(reply)["actions"]).all()
                else:
                    code = json.loads(reply)["error"]["code"]
                    wrong += code not in allowed or "Traceback" in reply
                answers[code] = answers.get(code, 0) + 1
                if number % 500 == 0:
                    connection.send(pack(sent))
                    actions = unpack(connection.recv(timeout=120))["actions"]
                    honest += 1
                    wrong += checked and not np.allclose(actions, answer_to(sent), rtol=1e-6)
    return {
        "frames": num,
        "seconds": round(time.monotonic() - began, 1),
        "answers": answers,
        "honest_frames_between": honest,
        "wrong_answers": wrong,
    }


def under_load(policy, clients: int, requests: int) -> dict:
    """Several clients, each asking again as soon as it is answered."""
    took: list[float] = []

    def work(url: str, seed: int) -> None:
        with RemotePolicy(url, timeout_s=600) as client:
            sent = observation(policy, seed)
            for _ in range(requests):
                began = time.perf_counter()
                client.infer(sent)
                took.append(time.perf_counter() - began)

    with serving(policy, max_age_s=600.0, max_message_mb=Limits().max_bytes / 2**20) as server:
        ready(server.url)
        threads = [threading.Thread(target=work, args=(server.url, seed)) for seed in range(clients)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.monotonic() - began
        policy_s = server.server.metrics.quantiles("policy")
        batches = dict(sorted(server.server.metrics.batches.items()))
    return {
        "clients": clients,
        "requests": len(took),
        "requests_per_second": round(len(took) / wall, 1),
        "client_ms": {
            f"p{100 * q:g}": round(1000 * float(np.quantile(took, q)), 2) for q in (0.5, 0.9, 0.99)
        },
        "policy_ms": {f"p{100 * q:g}": round(1000 * value, 2) for q, value in policy_s.items()},
        "batches": batches,
    }


def ready(url: str) -> None:
    """Wait for the warm-up."""
    RemotePolicy(url, connect_s=600).close()


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=500, help="of each client")
    parser.add_argument("--work-ms", type=float, default=0.0)
    parser.add_argument("--policy", type=Path, help="checkpoint folder of a GEM-VLA")
    options = parser.parse_args()
    if options.policy is not None:
        from egem.recipes.serve import ServedCheckpoint

        policy = ServedCheckpoint.load(options.policy)
    else:
        policy = WorkingPolicy(options.work_ms)
    result = {"policy": str(options.policy) if options.policy else f"sleeps {options.work_ms:g} ms"}
    if options.frames:
        result["under_fire"] = under_fire(policy, options.frames)
    if options.requests:
        result["under_load"] = under_load(policy, options.clients, options.requests)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
