"""The command line: one table of commands, each imported only when it is called.

`egem --help` reads nothing but this file. Exit codes: 0 done, 2 the user must change something (one line
says what), 1 a bug of ours (with its traceback), 130 interrupted, 141 nobody reads the output any more.
"""

import importlib
import logging
import os
import select
import sys
from collections.abc import Callable, Sequence

from egem.core.errors import EgemError, unknown_name

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("egem.cli.demo:demo", "the whole story on this machine in minutes, ending in a report"),
    "data render": ("egem.cli.data:render", "records from the embedded simulated world"),
    "data import": ("egem.cli.data:import_", "one data source -> records"),
    "data generate": ("egem.cli.data:generate", "questions from 3D scenes -> records"),
    "data sources": ("egem.cli.data:sources", "what `data import` can read"),
    "data stats": ("egem.cli.data:stats", "counts, answer balance and blind-guess baseline of a record set"),
    "data annotate": ("egem.cli.data:annotate", "add to records: depth, names, masks, tracks, depth latents"),
    "data plan": (
        "egem.cli.annotate:plan",
        "planning records from robot episodes, with a detector and a tracker",
    ),
    "data convert": ("egem.cli.data:convert", "robot episodes of other formats -> a LeRobot dataset"),
    "data dedupe": ("egem.cli.curate:dedupe", "leave out what is said twice about the same pictures"),
    "data leakage": ("egem.cli.curate:leakage", "find training pictures that a benchmark shows too"),
    "data filter": ("egem.cli.curate:filter_", "leave out what breaks a rule of quality; count by rule"),
    "data mix": ("egem.cli.curate:mix", "exact counts or weights of several record sets, with a card"),
    "data export": ("egem.cli.curate:export", "a record set for the Hugging Face hub"),
    "data view": ("egem.cli.data:view", "a page to look at a record set"),
    "init": ("egem.cli.init:init", "a new checkpoint folder from a preset or from pre-trained parts"),
    "export": ("egem.cli.export:export", "a checkpoint for other software"),
    "import-official": ("egem.cli.export:import_official", "a checkpoint from the released weights"),
    "train": ("egem.cli.train:train", "train a recipe, or resume a run"),
    "ask": ("egem.cli.look:ask", "ask a checkpoint about an image"),
    "depth": ("egem.cli.look:depth", "let a checkpoint draw the depth of an image"),
    "rollout": (
        "egem.cli.rollout:rollout",
        "play a policy or the scripted expert in a simulated environment",
    ),
    "eval": ("egem.cli.evaluate:evaluate", "scores with counts and confidence intervals"),
    "study": ("egem.cli.study:study", "controlled arms x seeds -> table with paired tests"),
    "serve": ("egem.cli.serve:serve", "a checkpoint's policy for robots and simulators, over websockets"),
    "bench data": ("egem.cli.bench:data", "time reading by part; open a million rows at an exact record"),
    "bench policy": ("egem.cli.bench:policy", "time a policy's chunks of actions; plan its memory"),
    "bench train": ("egem.cli.bench:train", "time training against a straightforward loop; plan its memory"),
}
"""Name -> where its function lives, and its line in the help. The function gets the remaining arguments."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr
    )
    for name in ("httpx", "matplotlib", "PIL", "absl"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        found = _find(words)
        if found is None:
            print(_help(words))
            return
        function, rest = found
        function(rest)
    except EgemError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not _reader_left():
            raise
        sys.exit(141)


def _reader_left() -> bool:
    """Whether who reads our output is gone, as after `| head`; then nothing more is written to it."""
    output = select.poll()
    output.register(sys.stdout, select.POLLERR)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _find(words: Sequence[str]) -> tuple[Callable[[list[str]], None], list[str]] | None:
    """The command's function and its arguments, or None where help is asked for."""
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in COMMANDS:
            module, function = COMMANDS[name][0].split(":")
            return getattr(importlib.import_module(module), function), list(words[length:])
    if not words or words[0] in ("--help", "-h"):
        return None
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if words[0] in groups:
        inner = [word for word in words[1:2] if word not in ("--help", "-h")]
        if not inner:
            return None
        within = [name.split()[1] for name in COMMANDS if name.startswith(f"{words[0]} ")]
        raise unknown_name(f"command after '{words[0]}'", inner[0], within)
    raise unknown_name("command", words[0], {name.split()[0] for name in COMMANDS})


def _help(words: Sequence[str]) -> str:
    shown = {name: line for name, (_, line) in COMMANDS.items() if not words or words[0] in ("-h", "--help")}
    if not shown:
        shown = {name: line for name, (_, line) in COMMANDS.items() if name.startswith(words[0])}
    width = max(map(len, shown))
    lines = [f"  egem {name:<{width}}  {line}" for name, line in shown.items()]
    head = "egem: a vision-language model that learns where things are by generating depth\n"
    tail = "\n`egem COMMAND --help` shows a command's options; --debug shows tracebacks."
    return "\n".join([head, *lines, tail])
