"""Any server with the OpenAI chat interface (vLLM, SGLang, a hosted model): one request, one text.

Only the standard library, so that scoring on a machine without a GPU needs nothing else.
"""

import json
import logging
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from egem.core.errors import ProtocolError

logger = logging.getLogger(__name__)

MODEL_KEY, JUDGE_KEY, NAMER_KEY = "EGEM_MODEL_KEY", "EGEM_JUDGE_KEY", "EGEM_NAMER_KEY"
"""Environment variables with the keys of the server under test, of the judge, and of the one that names objects."""
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may go well the next time."""
LONGEST_PAUSE = 60.0


@dataclass(frozen=True, kw_only=True)
class ChatServer:
    """A model behind an address.

    The key of a server that needs one is taken from an environment variable of its own, so that no server is
    shown the key of another, and is never written anywhere.
    """

    url: str
    """Up to and with /v1: http://localhost:8000/v1"""
    model: str
    """The name the server knows it by."""
    key_variable: str | None = None
    """Environment variable that holds the server's key; None: no key is sent."""
    temperature: float = 0.0
    seed: int | None = None
    timeout: float = 300.0
    """Seconds for one answer."""
    retries: int = 6
    """How often a request that failed for a passing reason is sent again."""
    pause: float = 1.0
    """Seconds before the first retry; doubled each time, up to a minute, with some chance in it."""

    def complete(self, content: str | Sequence[dict[str, Any]], *, max_tokens: int) -> str:
        """The model's answer to one user message.

        Args:
            content: text, or parts {"type": "text" | "image_url", ...}.
            max_tokens: longest answer.

        Raises:
            ProtocolError: no answer after all retries, or the server refused the request; says why.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": self.temperature,
        }
        if self.seed is not None:
            body["seed"] = self.seed
        data = json.dumps(body).encode()
        problem = ""
        for attempt in range(self.retries + 1):
            try:
                return _text_of(self._send(data))
            except urllib.error.HTTPError as error:
                said = error.read(2000).decode(errors="replace").strip()
                problem = f"HTTP {error.code} {error.reason}: {said[:300]}"
                if error.code not in _PASSING:
                    break
                wait = error.headers.get("Retry-After", "")
            except (urllib.error.URLError, TimeoutError, OSError) as error:
                problem, wait = str(getattr(error, "reason", error)), ""
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problem, wait = f"not an answer of the chat interface ({error!r})", ""
            if attempt < self.retries:
                self._rest(attempt, wait, problem)
        key = f" (and {self.key_variable} where it wants a key)" if self.key_variable else ""
        raise ProtocolError(
            f"{self.url} gave no answer of model {self.model}: {problem}. Check that the server runs and knows "
            f"the model{key}; then start again, answers so far are kept."
        )

    def _send(self, data: bytes) -> dict[str, Any]:
        address = f"{self.url.rstrip('/')}/chat/completions"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(address, data=data, headers=headers, method="POST")
        key = os.environ.get(self.key_variable) if self.key_variable else None
        if key:
            # Not an ordinary header: those would follow a redirection to another host.
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            return json.loads(response.read())

    def _rest(self, attempt: int, wait: str, problem: str) -> None:
        seconds = float(wait) if wait.replace(".", "", 1).isdigit() else self.pause * 2**attempt
        seconds = min(seconds, LONGEST_PAUSE) * random.uniform(0.8, 1.2)
        logger.info("%s: %s; again in %.1f s", self.url, problem, seconds)
        time.sleep(seconds)


def _text_of(reply: dict[str, Any]) -> str:
    content = reply["choices"][0]["message"]["content"]
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError(f"content is {type(content).__name__}")
    return content
