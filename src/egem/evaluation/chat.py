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

KEY_VARIABLE = "OPENAI_API_KEY"
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may go well the next time."""
LONGEST_PAUSE = 60.0


@dataclass(frozen=True, kw_only=True)
class ChatServer:
    """A model behind an address.

    The key of a server that needs one is taken from the environment variable OPENAI_API_KEY and is never
    written anywhere.
    """

    url: str
    """Up to and with /v1: http://localhost:8000/v1"""
    model: str
    """The name the server knows it by."""
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
        raise ProtocolError(
            f"{self.url} gave no answer of model {self.model}: {problem}. Check that the server runs and knows "
            f"the model (and {KEY_VARIABLE} where it wants a key); then start again, answers so far are kept."
        )

    def _send(self, data: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(KEY_VARIABLE)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, data=data, headers=headers, method="POST")
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
