"""`egem serve` towards robots: openpi's own client, hostile frames, several clients, restarts, doors that stay shut."""

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import msgpack
import numpy as np
import pytest
from egem_client import ActionChunks, RealTimeChunks, RemotePolicy
from egem_client.errors import (
    BadObservationError,
    ConnectionFailedError,
    MessageTooLargeError,
    PolicyChangedError,
    PolicyFailedError,
    StaleObservationError,
    TimedOutError,
    UnauthorisedError,
    UnsafeActionError,
    UnsupportedError,
)
from egem_client.wire import pack, unpack
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from egem import remote_policy
from egem.core.errors import ConfigError, ProtocolError
from egem.policy import Observation
from egem.policy_messages import from_metadata
from egem.serving.batcher import Batcher
from egem.serving.config import ServingConfig
from egem.serving.metrics import ServingMetrics
from egem.serving.requests import read_request
from egem.serving.server import PolicyServer
from hostile_frames import hostile_frames
from policies import INFO, SumsPolicy, TalkingPolicy, answer_to, message, serving


@pytest.fixture(scope="module")
def running():
    with serving(TalkingPolicy(), max_message_mb=0.05) as server:
        wait_until_ready(server.http)
        yield server


def wait_until_ready(address: str) -> None:
    wait_for(lambda: status(f"{address}/readyz") == 200)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def status(address: str, headers: dict | None = None) -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers or {}), timeout=60
        ) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_published_openpi_client_works_unchanged(running):
    client_module = pytest.importorskip("openpi_client.websocket_client_policy")
    host, port = running.url.rsplit(":", 1)
    client = client_module.WebsocketClientPolicy(host, int(port))
    assert client.get_server_metadata()["horizon"] == 5
    for seed in range(3):
        sent = message(seed)
        reply = client.infer(sent)
        np.testing.assert_allclose(reply["actions"], answer_to(sent), rtol=1e-6)
        assert reply["actions"].dtype == np.float32
        assert reply["server_timing"]["infer_ms"] >= reply["policy_timing"]["infer_ms"] > 0
    assert reply["server_timing"]["prev_total_ms"] > 0
    with pytest.raises(RuntimeError, match="bad_observation"):
        client.infer({"prompt": "nothing else"})
    np.testing.assert_allclose(client.infer(sent)["actions"], answer_to(sent), rtol=1e-6)
    client._ws.close()


def test_wire_format_is_openpis_in_both_directions():
    theirs = pytest.importorskip("openpi_client.msgpack_numpy")
    value = {
        "a": np.arange(6, dtype=">f4").reshape(2, 3),
        "b": np.float32(2.5),
        "c": [1, "x", b"y", None, True],
    }
    for read in (theirs.unpackb(pack(value)), unpack(theirs.packb(value))):
        np.testing.assert_array_equal(read["a"], value["a"])
        assert read["a"].dtype == value["a"].dtype
        assert (read["b"], type(read["b"])) == (2.5, np.float32)
        assert read["c"] == value["c"]
    assert pack(value) == theirs.packb(value)


def test_hostile_frames_get_typed_errors_and_leave_the_server_right(running):
    sent = message(1)
    with connect(running.url, compression=None) as connection:
        connection.recv()
        seen = set()
        for number, (kind, frame, allowed) in enumerate(hostile_frames(pack(sent), num=260, seed=0)):
            connection.send(frame)
            reply = connection.recv(timeout=60)
            if isinstance(reply, bytes):
                assert kind == "flipped", kind  # a changed pixel is still a picture
                assert np.isfinite(unpack(reply)["actions"]).all()
            else:
                code = json.loads(reply)["error"]["code"]
                assert code in allowed, (kind, reply)
                assert "Traceback" not in reply
                assert len(reply) < 2000
            seen.add(kind)
            if number % 100 == 0:
                connection.send(pack(sent))
                np.testing.assert_allclose(unpack(connection.recv())["actions"], answer_to(sent), rtol=1e-6)
        assert len(seen) == 13
    # Far too large: the connection is closed without reading it, the server goes on.
    with pytest.raises(MessageTooLargeError), RemotePolicy(running.url) as client:
        client.infer(sent | {"observation/image": np.zeros((400, 400, 3), np.uint8)})
    with RemotePolicy(running.url) as client:
        np.testing.assert_allclose(client.infer(sent)["actions"], answer_to(sent), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observation/image": np.zeros((12, 16, 3), np.float32)}, "must be an array of uint8"),
        ({"observation/image": np.zeros((3, 12, 16), np.uint8)}, r"has shape \(3, 12, 16\)"),
        ({"observation/image": np.zeros((0, 16, 3), np.uint8)}, "16 x 0 pixels"),
        ({"observation/image": None}, "must be an array of uint8"),
        ({"observation/state": np.zeros(5, np.float32)}, r"has shape \(5,\); the policy wants \(4,\)"),
        ({"observation/state": np.array([0, np.nan, 0, 0], np.float32)}, "not finite"),
        ({"observation/state": np.array([0, 1e300, 0, 0])}, "not finite"),
        ({"prompt": 3}, "'prompt' must be text"),
        ({"prompt": "x" * 5000}, "5000 characters"),
        ({"egem/seed": -1}, "whole number"),
        ({"egem/previous": np.zeros((6, 3), np.float32)}, "1 to 5 actions"),
        ({"egem/previous": np.zeros((2, 3), np.float32), "egem/committed": 3}, "from 0 to 2"),
        ({"egem/committed": 1}, "from 0 to 0"),
    ],
)
def test_bad_observations_are_refused_with_the_reason(running, change, words):
    with RemotePolicy(running.url) as client, pytest.raises(BadObservationError, match=words):
        client.infer(message() | change)


def test_clients_that_come_while_the_policy_is_busy_are_answered_in_one_batch():
    policy = SumsPolicy()
    with serving(policy, max_batch=4) as server:
        wait_until_ready(server.http)
        policy.gate.clear()
        policy.batches.clear()
        calls, replies = policy.calls, {}

        def ask(seed: int) -> None:
            with RemotePolicy(server.url) as client:
                replies[seed] = client.infer(message(seed))["actions"]

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        threads[0].start()
        wait_for(lambda: policy.calls == calls + 1)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: server.server.metrics.waiting == 3)
        policy.gate.set()
        for thread in threads:
            thread.join(60)
        assert policy.batches == [1, 3]
        for seed in range(4):
            np.testing.assert_allclose(replies[seed], answer_to(message(seed)), rtol=1e-6)


def test_one_bad_member_does_not_spoil_the_batch():
    policy = SumsPolicy()
    with serving(policy) as server:
        wait_until_ready(server.http)
        policy.gate.clear()
        outcome = {}

        def ask(name: str) -> None:
            with RemotePolicy(server.url) as client:
                try:
                    outcome[name] = client.infer(message(1, name))["actions"]
                except PolicyFailedError as error:
                    outcome[name] = str(error)

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("first", "raise", "good")]
        for thread in threads:
            thread.start()
        wait_for(lambda: server.server.metrics.requests == 3)
        policy.gate.set()
        for thread in threads:
            thread.join(60)
        assert "RuntimeError" in outcome["raise"]
        assert "secret" not in outcome["raise"]
        np.testing.assert_allclose(outcome["good"], answer_to(message(1, "good")), rtol=1e-6)


def test_overtaken_observations_are_dropped_and_the_queue_is_bounded():
    policy = SumsPolicy()
    with serving(policy, max_age_s=1000.0, max_waiting=1) as server:
        wait_until_ready(server.http)
        policy.gate.clear()
        with connect(server.url, compression=None) as busy:
            busy.recv()
            calls = policy.calls
            busy.send(pack(message(0)))
            wait_for(lambda: policy.calls > calls)
            with connect(server.url, compression=None) as other, connect(server.url) as third:
                other.recv()
                third.recv()
                other.send(pack(message(4)))
                wait_for(lambda: server.server.metrics.waiting == 1)
                third.send(pack(message(5)))
                assert json.loads(third.recv(timeout=60))["error"]["code"] == "overloaded"
                for seed in (1, 2, 3):
                    busy.send(pack(message(seed)))  # the policy is busy: 1 and 2 are overtaken by 3
                third.send(b"")
                third.recv(timeout=60)  # by now they were read
                policy.gate.set()
                np.testing.assert_allclose(
                    unpack(other.recv(timeout=60))["actions"], answer_to(message(4)), rtol=1e-6
                )
            replies = [busy.recv(timeout=60) for _ in range(4)]
        np.testing.assert_allclose(unpack(replies[0])["actions"], answer_to(message(0)), rtol=1e-6)
        assert [json.loads(reply)["error"]["code"] for reply in replies[1:3]] == ["stale_observation"] * 2
        np.testing.assert_allclose(unpack(replies[3])["actions"], answer_to(message(3)), rtol=1e-6)
        assert server.server.metrics.errors == {
            "overloaded": 1,
            "stale_observation": 2,
            "malformed_message": 1,
        }


def test_an_observation_that_waited_too_long_is_dropped():
    policy = SumsPolicy()

    async def ask(age: float) -> np.ndarray:
        batcher = Batcher(policy, ServingConfig(max_age_s=10.0), ServingMetrics())
        running = asyncio.create_task(batcher.run())
        arrived = time.monotonic() - age
        request = read_request(message(1), INFO, ServingConfig(), keys={}, arrived=arrived)
        try:
            return (await batcher.ask(request)).actions
        finally:
            running.cancel()
            batcher.close()

    with pytest.raises(StaleObservationError, match="more than 10 s"):
        asyncio.run(ask(100.0))
    assert policy.batches == []
    np.testing.assert_allclose(asyncio.run(ask(0.0)), answer_to(message(1)), rtol=1e-6)


def test_unsafe_actions_never_leave():
    policy = SumsPolicy()
    with (
        serving(policy, action_low=(-1.0,), action_high=(2.5, 1e6, 1e6)) as server,
        RemotePolicy(server.url, connect_s=60) as client,
    ):
        reply = client.infer(message(2))
        assert reply["egem/clipped"] > 0
        assert reply["actions"][:, 0].tolist() == [0, 1, 2, 2.5, 2.5]
        policy.spoil = float("nan")
        with pytest.raises(UnsafeActionError, match="action 0 of the chunk is not finite"):
            client.infer(message())
    with (
        serving(SumsPolicy(), action_high=(2.5,), outside="refuse") as server,
        RemotePolicy(server.url) as client,
        pytest.raises(UnsafeActionError, match="outside"),
    ):
        client.infer(message())
    with pytest.raises(ConfigError, match="action_low has 2 values"):
        PolicyServer(SumsPolicy(), ServingConfig(action_low=(0.0, 1.0)))


def test_client_comes_back_after_a_restart_and_refuses_another_policy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    policy = SumsPolicy()
    with serving(policy, port=port) as server:
        client = RemotePolicy(server.url, connect_s=60)
        client.infer(message())
    with serving(policy, port=port):
        sent = message(3)
        np.testing.assert_allclose(client.infer(sent)["actions"], answer_to(sent), rtol=1e-6)
        assert client.reconnects == 1
        policy.gate.clear()
        impatient = RemotePolicy(client.url)
        impatient._timeout_s = 0.05
        with pytest.raises(TimedOutError):
            impatient.infer(sent)
        policy.gate.set()
        impatient._timeout_s = 60.0
        np.testing.assert_allclose(impatient.infer(sent)["actions"], answer_to(sent), rtol=1e-6)
    with serving(TalkingPolicy(), port=port), pytest.raises(PolicyChangedError, match="explains changed"):
        client.infer(message())
    client._connect_s = 0.2
    with pytest.raises(ConnectionFailedError, match="egem serve"):
        client.infer(message())


def test_readiness_health_metrics_and_token():
    policy = SumsPolicy()
    policy.gate.clear()
    with serving(policy, token="s3cret") as server:
        assert status(f"{server.http}/healthz") == 200
        assert status(f"{server.http}/readyz") == 503
        with pytest.raises(InvalidStatus, match="503"):
            connect(server.url, additional_headers={"Authorization": "Api-Key s3cret"})
        policy.gate.set()
        wait_until_ready(server.http)
        assert policy.batches == [1, 1, 8, 8]  # alone and full, each also going on from an earlier chunk
        for wrong in (None, "guess", "s3cret "[:3]):
            with pytest.raises(UnauthorisedError):
                RemotePolicy(server.url, token=wrong)
        with RemotePolicy(server.url, token="s3cret") as client:
            client.infer(message())
        assert status(f"{server.http}/metrics") == 401
        request = urllib.request.Request(f"{server.http}/metrics", headers={"Authorization": "Bearer s3cret"})
        text = urllib.request.urlopen(request).read().decode()
        assert "egem_answers_total 1" in text
        assert 'egem_total_latency_seconds{quantile="0.99"}' in text
        with pytest.raises(InvalidStatus, match="403"):  # a web page in a browser
            connect(
                server.url,
                origin="http://evil.example",
                additional_headers={"Authorization": "Api-Key s3cret"},
            )


def test_other_machines_need_a_token():
    for host in ("0.0.0.0", "192.168.1.5", "robot.lab", "::"):
        with pytest.raises(ConfigError, match="a token is needed"):
            PolicyServer(SumsPolicy(), ServingConfig(host=host))
    PolicyServer(SumsPolicy(), ServingConfig(host="::1"))


def test_text_and_depth_on_demand(running):
    sent = message(4, "lift") | {"egem/question": "what?", "egem/want_depth": True}
    with RemotePolicy(running.url) as client:
        reply = client.infer(sent)
        assert client.metadata["explains"] is True
    assert reply["egem/answer"] == "what? lift"
    np.testing.assert_allclose(reply["egem/depth/image"], sent["observation/image"][..., 0] / 100, rtol=1e-6)
    assert reply["egem/depth_kind"] == "metric"
    with serving(SumsPolicy()) as plain, RemotePolicy(plain.url) as client, pytest.raises(UnsupportedError):
        client.infer(message() | {"egem/question": "what?"})


def test_who_asks_for_depth_does_not_keep_the_others_waiting():
    drawing, go_on = threading.Event(), threading.Event()

    class Slow(TalkingPolicy):
        def draw_depth(self, observation):
            drawing.set()
            assert go_on.wait(60)
            return super().draw_depth(observation)

    policy, config = Slow(), ServingConfig()

    def request(number: int, **extras):
        sent = message(number) | extras
        return read_request(sent, INFO, config, keys={}, arrived=time.monotonic())

    async def ask() -> list[str]:
        batcher, order = Batcher(policy, config, ServingMetrics()), []

        async def client(name: str, asked) -> None:
            await batcher.ask(asked)
            order.append(name)

        running = asyncio.create_task(batcher.run())
        depth = {"egem/want_depth": True}
        try:
            asking = [
                asyncio.create_task(client(name, request(number, **extras)))
                for number, (name, extras) in enumerate(
                    (("depth", depth), ("depth too", depth), ("plain", {}))
                )
            ]
            await asyncio.wait_for(asking[2], 30)
            await asyncio.to_thread(drawing.wait, 30)
            assert order == ["plain"]
            asking.append(asyncio.create_task(client("later", request(3))))  # comes while depth is drawn
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(*asking)
        finally:
            go_on.set()
            running.cancel()
            batcher.close()
        return order

    assert asyncio.run(ask()) == ["plain", "depth", "later", "depth too"]
    assert policy.batches == [3, 1]


def test_remote_policy_is_a_policy(running):
    policy = remote_policy.RemotePolicy(running.url)
    assert policy.info == INFO
    sent = [message(seed, f"task {seed}") for seed in range(3)]
    observations = [
        Observation(
            images={
                "image": item["observation/image"],
                "wrist_image": item["observation/wrist_image"],
                "top": np.zeros((1, 1, 3), np.uint8),
            },
            state=item["observation/state"],
            instruction=item["prompt"],
        )
        for item in sent
    ]
    kept = np.full((2, 3), 7, np.float32)
    for committed in (None, [0, 1, 0]):  # all that is kept, or the first of it
        chunks = policy.act(observations, previous=[None, kept, None], committed=committed, seed=3)
        for item, chunk in zip(sent, chunks, strict=True):
            wanted = answer_to(item)
            if item["prompt"] == "task 1":
                wanted[1] = 7 if committed is None else (wanted[1] + 7) / 2
                wanted[0] = 7
            np.testing.assert_allclose(chunk, wanted, rtol=1e-6)
    assert running.server._policy.seeds[-1] == 3
    with pytest.raises(ProtocolError, match="camera wrist_image"):
        policy.act(
            [Observation(images={"image": sent[0]["observation/image"]}, state=np.zeros(4), instruction="")]
        )
    policy.close()
    with pytest.raises(ProtocolError, match="say it yourself"):
        from_metadata({"name": "pi0"}, "ws://robot")


def test_clients_with_other_names_are_served():
    names = {"video/front": "image", "observation/hand": "wrist_image", "joints": "state"}
    sent = message(5)
    theirs = {
        "video": {"front": sent["observation/image"]},
        "observation/hand": sent["observation/wrist_image"],
        "joints": sent["observation/state"].tolist(),
        "prompt": sent["prompt"],
    }
    with serving(SumsPolicy(), rename=names) as server, RemotePolicy(server.url) as client:
        np.testing.assert_allclose(client.infer(theirs)["actions"], answer_to(sent), rtol=1e-5)
    with pytest.raises(ConfigError, match="the policy knows image, wrist_image, state"):
        PolicyServer(SumsPolicy(), ServingConfig(), rename={"a": "agentview"})


def test_chunks_are_played_out_before_the_next_look(running):
    with RemotePolicy(running.url) as client:
        chunks, looks = ActionChunks(client, execute=2), []

        def observe() -> dict:
            looks.append(len(looks))
            return message(len(looks))

        first = [chunks.next(observe)[0] for _ in range(5)]
        assert (first, len(looks)) == ([0, 1, 0, 1, 0], 3)
        chunks.reset()
        assert chunks.next(observe)[0] == 0
        with pytest.raises(ValueError, match="5 actions a chunk, 6"):
            ActionChunks(client, execute=6).next(observe)


class Counting:
    """Chunk n is 100 n + (0, 1, ..., 7) but for what is committed; each answer waits for `gate`."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.gate = threading.Event()
        self.gate.set()

    def infer(self, observation) -> dict:
        self.asked.append(dict(observation))
        assert self.gate.wait(60)
        chunk = 100.0 * (len(self.asked) - 1) + np.arange(8.0)[:, None]
        committed = observation.get("egem/committed", 0)
        chunk[:committed] = observation.get("egem/previous", chunk)[:committed]
        return {"actions": chunk}


def test_real_time_chunks_play_on_while_the_next_one_is_computed():
    policy = Counting()
    chunks = RealTimeChunks(policy, execute=3, delay=2)

    def play(count: int) -> list[float]:
        return [float(chunks.next(lambda: {"prompt": "go"})[0]) for _ in range(count)]

    assert play(3) == [0, 1, 2]
    policy.gate.clear()
    assert play(2) == [3, 4]  # of the old chunk: the answer is under way
    wait_for(lambda: len(policy.asked) == 2)
    assert policy.asked[1]["egem/previous"].ravel().tolist() == [3, 4, 5, 6, 7]
    assert policy.asked[1]["egem/committed"] == 2
    policy.gate.set()
    chunks._asked.result(60)
    assert play(1) == [102]  # the new chunk at the step that it was made for
    policy.gate.clear()
    assert play(4) == [103, 104, 105, 106]
    wait_for(lambda: len(policy.asked) == 3)
    assert policy.asked[2]["egem/previous"].ravel().tolist() == [103, 104, 105, 106, 107]
    assert chunks.pauses == 0
    threading.Timer(0.05, policy.gate.set).start()
    assert play(2) == [107, 205]  # used up before the answer came
    assert (chunks.pauses, len(policy.asked)) == (1, 3)
    policy.gate.clear()
    assert play(1) == [206]
    wait_for(lambda: len(policy.asked) == 4)
    assert (
        policy.asked[3]["egem/committed"] == 2
    )  # all that is left, as long as an answer may take five steps
    policy.gate.set()
    chunks.reset()
    assert play(1) == [400]
    assert "egem/previous" not in policy.asked[4]
    chunks.close()
    with pytest.raises(ValueError, match="8 actions a chunk; 7 are to be played"):
        RealTimeChunks(policy, execute=7, delay=2).next(dict)


def test_real_time_chunks_against_servers(running):
    with RemotePolicy(running.url) as client:
        chunks = RealTimeChunks(client, execute=2)
        played = [chunks.next(lambda: message(1)) for _ in range(12)]
        assert np.isfinite(played).all()
        chunks.close()

    class Forgetful(Counting):
        def infer(self, observation):
            return {"actions": super().infer({})["actions"]}

    chunks = RealTimeChunks(Forgetful(), execute=1)
    with pytest.raises(ValueError, match="does not continue chunks"):
        [chunks.next(dict) for _ in range(9)]


def test_an_openpi_servers_traceback_is_told_in_one_line():
    from egem_client.remote_policy import _error

    error = _error("Traceback (most recent call last):\n  File ...\nKeyError: 'observation/image'\n")
    assert isinstance(error, PolicyFailedError)
    assert str(error) == "the server failed: KeyError: 'observation/image'"


def test_arrays_of_objects_are_never_sent():
    with pytest.raises(TypeError, match="cannot be sent"):
        pack({"a": np.array([object()])})
    assert msgpack.unpackb(pack({"a": 1})) == {"a": 1}
