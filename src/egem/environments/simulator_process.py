"""A simulator with dependencies of its own, in a process of its own: asked over two pipes.

What runs there is `packages/egem-simulators`, installed in an environment of its own by `tools/libero_env.sh` or
`tools/simpler_env.sh`. Messages are length and msgpack; nothing is unpickled. A simulator that crashes or hangs takes
nothing else with it.
"""

import os
import selectors
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from egem_client.errors import RemoteError
from egem_client.wire import Limits, pack, unpack

from egem.core.errors import ConfigError, ProtocolError, SimulatorError

_LIMITS = Limits(max_bytes=1 << 28, max_depth=8, max_items=1 << 16, max_text=1 << 20)
_LENGTH = struct.Struct(">I")
_LAST_WORDS = 1500


class SimulatorProcess:
    """One simulator process.

    Make it in a thread that lives as long as it is needed: on Linux the simulator is killed when that thread ends, so
    that none outlives whoever asked it.

    Args:
        name: of the simulator, for messages.
        command: what starts it.
        environment: variables to set there, beside those of this process.
        timeout_s: how long one answer may take; the first reset of a simulator compiles and loads for long.

    Raises:
        ConfigError: the command cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                bufsize=0,  # what is buffered here would be invisible to the selector
                env=inherited | dict(environment or {}),
            )
        except OSError as error:
            raise ConfigError(f"{name} cannot be started with {command[0]}: {error.strerror}.") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)

    def ask(self, do: str, /, **entries: Any) -> Any:
        """The simulator's answer.

        Args:
            do: what it shall do.
            entries: numbers, strings and arrays that belong to it.

        Raises:
            ConfigError: the user must change something: assets, a task's name.
            ProtocolError: the action cannot be carried out.
            SimulatorError: the simulator failed, died or did not answer in time; it must be started anew.
        """
        frame = pack({"do": do, **entries})
        try:
            rest = memoryview(_LENGTH.pack(len(frame)) + frame)
            while rest:
                rest = rest[self._questions.write(rest) :]
        except (OSError, ValueError):
            raise self._dead(do) from None
        until = time.monotonic() + self._timeout_s
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, until, do))
        if length > _LIMITS.max_bytes:
            raise self._dead(do)
        try:
            answer = unpack(self._read(length, until, do), _LIMITS)
        except RemoteError as error:
            self.close()
            raise SimulatorError(
                f"{self._name} answered '{do}' with something unreadable: {error}"
            ) from error
        if "error" in answer:
            kind, message = answer["error"]["kind"], answer["error"]["message"]
            if kind == "config":
                raise ConfigError(message)
            if kind == "action":
                raise ProtocolError(message)
            raise SimulatorError(f"{self._name} failed in '{do}': {message}")
        return answer["value"]

    def close(self) -> None:
        """End the process; it is killed if it does not go by itself."""
        if self._process.poll() is None:
            try:
                self._questions.close()
                self._process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        self._selector.close()
        self._answers.close()
        self._log.close()

    def _read(self, size: int, until: float, do: str) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            if not self._selector.select(max(0.0, until - time.monotonic())):
                self._process.kill()
                raise SimulatorError(
                    f"{self._name} did not answer '{do}' within {self._timeout_s:g} s and was ended."
                )
            part = self._answers.read(size - len(parts))
            if not part:
                raise self._dead(do)
            parts += part
        return bytes(parts)

    def _dead(self, do: str) -> SimulatorError:
        try:
            code: object = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = "unknown"
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LAST_WORDS))
        words = self._log.read().decode(errors="replace").strip()
        return SimulatorError(
            f"{self._name} died in '{do}' (exit code {code}). Its last words:\n{words or '(none)'}"
        )


def interpreter(given: Path | None, variable: str, folder: str, script: str) -> Path:
    """The Python of a simulator's own environment.

    Args:
        given: by the user, or None.
        variable: environment variable that names it otherwise.
        folder: where `script` puts it, if neither is given.
        script: what makes it, for the message.

    Raises:
        ConfigError: there is none.
    """
    python = given or Path(os.environ.get(variable) or f"{folder}/bin/python")
    if not python.is_file():
        raise ConfigError(f"{python} does not exist; run {script}, or name the interpreter with {variable}.")
    return python
