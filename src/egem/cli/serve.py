"""`egem serve`: a checkpoint's policy for robots and simulators."""

import asyncio
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from egem.cli.options import parse
from egem.core.errors import ConfigError
from egem.serving.config import ServingConfig, check_exposure

TOKEN_VARIABLE = "EGEM_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve a checkpoint's policy over openpi's websocket protocol; Ctrl-C ends it."""

    checkpoint: Positional[Path]
    """Checkpoint folder with an action expert."""
    rename: tuple[str, ...] = ()
    """THEIRS=OURS: a picture or the state that clients send under another name, e.g.
    observation/exterior_image_1_left=agentview, or observation/joint_position=state."""
    device: str = "auto"
    """`auto` takes a GPU if there is one."""
    compile: Literal["none", "expert", "all"] = "none"
    """What is compiled before the server calls itself ready, which takes minutes: the action expert, or all blocks
    (text and depth are then compiled when they are first asked for)."""
    cuda_graph: bool = False
    """On a GPU: play all flow steps back as one CUDA graph."""
    serving: OmitArgPrefixes[ServingConfig] = field(default_factory=ServingConfig)


def serve(arguments: list[str]) -> None:
    """Serve until interrupted."""
    options = parse(ServeOptions, "serve", arguments)
    config = options.serving
    if config.token is None:
        config = replace(config, token=os.environ.get(TOKEN_VARIABLE) or None)
    rename = dict(_pair(text) for text in options.rename)

    check_exposure(config)  # before minutes are spent on loading

    from egem.recipes.serve import ServedCheckpoint
    from egem.serving.server import PolicyServer

    policy = ServedCheckpoint.load(
        options.checkpoint, device=options.device, compiled=options.compile, cuda_graph=options.cuda_graph
    )

    async def run() -> None:
        server = PolicyServer(policy, config, rename=rename)
        await server.run(started=lambda it: print(f"listening on ws://{config.host}:{it.port}", flush=True))

    asyncio.run(run())


def _pair(text: str) -> tuple[str, str]:
    theirs, mark, ours = text.partition("=")
    if not (theirs and mark and ours):
        raise ConfigError(f"--rename {text}: write THEIRS=OURS, such as observation/image=agentview.")
    return theirs, ours
