"""Questions and answers between egem and a simulator in another process: length and msgpack on two pipes.

A question is `{"do": name, ...}`, an answer `{"value": ...}` or `{"error": {"kind", "message"}}`. The kind "config" is
the user's to resolve, "action" the policy's, anything else the simulator's.
"""

import ctypes
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from egem_client.wire import Limits, pack, unpack

LIMITS = Limits(max_bytes=1 << 28, max_depth=8, max_items=1 << 16, max_text=1 << 20)
_LENGTH = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

DEMONSTRATION_SEED = 1_000_000
"""From this seed on, episodes begin where no evaluation does; the same number as in egem's `environments`."""

METHODS = ("describe", "reset", "step", "observe", "failure", "calibrations", "expert", "expert_next")
"""What egem may ask of a simulator: methods of its line."""


class ConfigProblem(Exception):  # noqa: N818 - named after what egem makes of it
    """Something the user must resolve: a missing asset, an unknown task."""


class ActionProblem(Exception):  # noqa: N818
    """An action that cannot be carried out."""


def end_with_parent() -> None:
    """From now on the kernel kills this process when the one that started it ends, however that happens.

    A closed pipe is noticed only where the next question is read: after loading, or after what is being simulated.
    Does nothing where the kernel is not Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)


def private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The process's pipes for questions and answers; what simulators print goes to the error output from now on."""
    answers = os.fdopen(os.dup(1), "wb")
    questions = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)  # a simulator that asks y/n must not eat questions
    os.dup2(nothing, 0)
    return questions, answers


def send(pipe: BinaryIO, message: Mapping[str, Any]) -> None:
    """Write one message."""
    frame = pack(dict(message))
    pipe.write(_LENGTH.pack(len(frame)) + frame)
    pipe.flush()


def receive(pipe: BinaryIO) -> dict[str, Any] | None:
    """Read one message; None once the other side is gone."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    frame = pipe.read(length) if length <= LIMITS.max_bytes else b""
    return unpack(frame, LIMITS) if len(frame) == length else None


def methods_of(line: object) -> dict[str, Callable[..., Any]]:
    """Those that egem may call, by name."""
    return {name: getattr(line, name) for name in METHODS}


def answer_all(questions: BinaryIO, answers: BinaryIO, methods: Mapping[str, Callable[..., Any]]) -> None:
    """Answer until the other side hangs up.

    Args:
        questions: where they come from.
        answers: where they go.
        methods: name -> function of the question's other entries.
    """
    while (question := receive(questions)) is not None:
        name = question.pop("do", None)
        try:
            if name not in methods:
                raise ConfigProblem(
                    f"the simulator's process cannot '{name}'; install packages/egem-simulators anew."
                )
            reply = {"value": methods[name](**question)}
        except (ConfigProblem, ActionProblem) as problem:
            kind = "config" if isinstance(problem, ConfigProblem) else "action"
            reply = {"error": {"kind": kind, "message": str(problem)}}
        except Exception as error:  # noqa: BLE001 - whatever a simulator raises, the other side must hear of it
            traceback.print_exc(file=sys.stderr)
            last = "".join(traceback.format_exception_only(error)).strip()
            reply = {"error": {"kind": "simulator", "message": last[:2000]}}
        send(answers, reply)
