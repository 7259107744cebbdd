"""The arms of the study. All read the same questions in the same order from the same start."""

from dataclasses import dataclass
from typing import Literal

from egem.data.depth import DepthTarget

Objective = Literal["flow", "regression"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train; what is not named here is equal in all arms."""

    name: str
    letter: str = ""
    """In the study's text."""
    title: str
    target: DepthTarget = "depth"
    """What the depth head is taught to draw."""
    objective: Objective = "flow"
    depth_weight: float | None = None
    """Of the joint stage; None: the recipe's."""
    has_head: bool = True
    """Whether there is a depth branch at all."""
    warm_up: bool = True
    """Stages 1 and 2 (connector, then depth head, the backbone frozen) come before the joint stage."""
    num_parts: int | None = None
    """Train on the first so many parts of the data; None: on all."""

    @property
    def head(self) -> str | None:
        """Name of the depth head that stages 1 and 2 make for it: arms that name the same one share it."""
        if not (self.has_head and self.warm_up):
            return None
        parts = "" if self.num_parts is None else f"-parts-{self.num_parts}"
        return f"{self.target}-{self.objective}{parts}"


LANGUAGE = Arm(name="language", letter="a", title="language only", depth_weight=0.0, has_head=False)
DEPTH = Arm(name="depth", letter="b", title="depth by flow matching (GEM)")
IMAGE = Arm(name="image", letter="c", title="RGB reconstruction by flow matching", target="image")
REGRESSION = Arm(
    name="regression", letter="d", title="depth by regression, the same head", objective="regression"
)
SHUFFLED = Arm(name="shuffled", letter="e", title="another image's depth by flow matching", target="shuffled")
UNUSED = Arm(name="unused", letter="f", title="depth branch with weight 0", depth_weight=0.0)
DIRECT = Arm(name="direct", letter="g", title="jointly at once, without stages 1 and 2", warm_up=False)

MAIN = (LANGUAGE, DEPTH, IMAGE, SHUFFLED)
"""Decide the hypotheses, so they come first and get the most seeds."""
OTHERS = (REGRESSION, UNUSED, DIRECT)
WEIGHTS = tuple(
    Arm(name=f"depth-weight-{weight:g}", title=f"depth, weight {weight:g}", depth_weight=weight)
    for weight in (0.01, 0.1, 0.3, 1.0)
)
"""How strongly depth should count; the recipe's own weight is the arm `depth`."""
FRACTIONS = tuple(
    Arm(
        name=f"{arm.name}-{percent}-percent",
        title=f"{arm.title}, {percent} % of the data",
        depth_weight=arm.depth_weight,
        has_head=arm.has_head,
        num_parts=num_parts,
    )
    for num_parts, percent in ((1, 10), (2, 30))
    for arm in (LANGUAGE, DEPTH)
)
"""Less data, equally many steps; 100 % are the arms `language` and `depth`."""

ARMS: dict[str, Arm] = {arm.name: arm for arm in (*MAIN, *OTHERS, *WEIGHTS, *FRACTIONS)}
"""Name -> arm."""
