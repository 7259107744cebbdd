"""What every world refuses to draw."""

from collections.abc import Collection, Sequence

from egem.core.errors import ConfigError, unknown_name


def check_request(
    *,
    seed: int,
    num: int,
    start: int,
    split: str,
    splits: Collection[str],
    cameras: Sequence[str],
    known: Collection[str],
) -> None:
    """Make sure that views `start` to `start + num` of a seed can be asked for.

    Args:
        seed: of the scenes.
        num: how many views.
        start: number of the first.
        split: asked for.
        splits: those that the world has.
        cameras: asked for.
        known: those that the world has.

    Raises:
        ConfigError: unknown split or camera, no camera, or a negative number.
    """
    if split not in splits:
        raise unknown_name("split", split, splits)
    for camera in cameras:
        if camera not in known:
            raise unknown_name("camera", camera, known)
    if not cameras:
        raise ConfigError(f"no camera given; choose from {', '.join(known)}.")
    if seed < 0 or num < 0 or start < 0:
        raise ConfigError(f"seed {seed}, num {num} and start {start} must not be negative.")
