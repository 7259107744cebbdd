"""Frames that no honest client sends, each with the errors that may answer it."""

import random
from collections.abc import Iterator

import msgpack

MALFORMED = frozenset({"malformed_message"})
BAD = frozenset({"malformed_message", "bad_observation"})
ANY = frozenset({"malformed_message", "bad_observation", "unsupported"})
LARGE = frozenset({"message_too_large"})


def hostile_frames(
    good: bytes, *, num: int, seed: int, limit: int = 52_428
) -> Iterator[tuple[str, bytes | str, frozenset[str]]]:
    """Kind, frame, and the codes that are a right answer; thirteen kinds in turn.

    Args:
        good: an honest frame, to be damaged.
        num: how many.
        seed: of the damage.
        limit: bytes that the server takes.
    """
    rng = random.Random(seed)
    for number in range(num):
        yield _frame(number % 13, good, rng, limit)


def _frame(kind: int, good: bytes, rng: random.Random, limit: int) -> tuple[str, bytes | str, frozenset[str]]:
    if kind == 0:
        return "random", rng.randbytes(rng.randrange(0, 300)), BAD
    if kind == 1:
        return "truncated", good[: rng.randrange(len(good))], MALFORMED
    if kind == 2:
        damaged = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        return "flipped", bytes(damaged), ANY
    if kind == 3:
        return "oversize", good + bytes(limit), LARGE
    if kind == 4:
        dtype = rng.choice(["|O", "|V8", "<c16", "<U4", "|S3", "<M8[s]", "O", "f4,f4", "", "<f4" * 9])
        return "dtype", _array(dtype, [2], bytes(8)), MALFORMED
    if kind == 5:
        shape = rng.choice(
            [[3], [-1, 2], [2**40, 2**40], [1] * 40, ["2"], [2.0], None, [True, 2], [0, 2**62]]
        )
        return "shape", _array("<f4", shape, bytes(8)), BAD
    if kind == 6:
        opening = rng.choice([b"\x91", b"\x81\xa1a"])
        return "nested", opening * rng.randrange(20, 12_000) + b"\xc0", MALFORMED
    if kind == 7:
        return "text", rng.choice(["", "{}", "GET / HTTP/1.1", "\u2603" * 50]), MALFORMED
    if kind == 8:
        claim = rng.choice(
            [
                b"\xdd\xff\xff\xff\xff",
                b"\xdf\xff\xff\xff\xff",
                b"\xc6\xff\xff\xff\xff",
                b"\xdb\xff\xff\xff\xff",
            ]
        )
        return "claims", claim + rng.randbytes(20), MALFORMED
    if kind == 9:
        values = rng.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\x80\xff"])
        message = msgpack.unpackb(good)
        message["observation/state"][b"data"] = values * 4
        return "not finite", msgpack.packb(message), frozenset({"bad_observation"})
    if kind == 10:
        return (
            "not a map",
            msgpack.packb(rng.choice([[1], 7, None, "x", b"y", 1.5, [[]] * 9])),
            frozenset({"bad_observation"}),
        )
    if kind == 11:
        odd = rng.choice(
            [msgpack.ExtType(5, b"x"), msgpack.Timestamp(1), {b"k": 1}, {"observation": {"image": {b"z": 2}}}]
        )
        return "odd", msgpack.packb({"prompt": odd}), BAD
    scalar = {
        b"__npgeneric__": True,
        b"data": rng.choice([1e300, "x", None, 2**70, [1]][:4]),
        b"dtype": "<u2",
    }
    if scalar[b"data"] == 2**70:
        scalar[b"data"] = 2**63
    return "scalar", msgpack.packb({"observation/state": scalar}), BAD


def _array(dtype: str, shape: object, data: bytes) -> bytes:
    return msgpack.packb(
        {"observation/image": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}}
    )
