"""Windows of robot episodes to samples: pictures of several cameras, the instruction, the state and a chunk of actions.

The same function, `observe`, makes what the model sees in training and in use.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from egem.batch import ActionTarget, DepthMap, DepthTargets, Sample
from egem.core.errors import RecordError
from egem.data.augment import Augmentation, augment
from egem.data.loader import depth_placeholder, idle_sample
from egem.data.normalization import Normalization
from egem.data.prepare import Preparer
from egem.data.robot_data import RobotData
from egem.media import check_depth
from egem.records import IMAGE_MARK, Message


def observe(
    preparer: Preparer,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    instruction: str,
    *,
    record_ids: tuple[str, ...] = (),
) -> Sample:
    """What the model sees of a robot at one moment: a user's turn of all pictures and the instruction.

    Args:
        preparer: of the checkpoint.
        images: one a camera, in the policy's order.
        instruction: what is to be done.
        record_ids: to find the window again.

    Raises:
        RecordError: too many tokens for a sequence.
    """
    message = Message(role="user", content=IMAGE_MARK * len(images) + instruction.strip())
    return preparer.prompt([message], images, record_ids=record_ids)


@dataclass(frozen=True, kw_only=True)
class EpisodeWindows:
    """The windows of robot data as a `SampleSource`."""

    data: RobotData
    preparer: Preparer
    normalization: Normalization
    augmentation: Augmentation | None = None
    """None leaves pictures as they are, and takes the instruction itself, not a paraphrase."""
    with_depth: bool = True
    """Also encode the depth maps of cameras that have them."""

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One window.

        Args:
            index: see `RobotData.place`.
            rng: of the augmentation and of the wording.

        Raises:
            RecordError: a frame, depth map or the episode cannot be read.
        """
        number, step = self.data.place(index)
        episode = self.data.episode(number)
        where = f"episode {episode.id}, step {step}"
        images, depths = [], {}
        for place, name in enumerate(self.data.cameras):
            stream = episode.cameras[name]
            image, depth = stream.frames.read([step])[0], None
            if self.with_depth and stream.depth is not None:
                depth = stream.depth.read([step])[0]
                if depth.shape != image.shape[:2]:
                    raise RecordError(
                        f"{where}: depth of camera '{name}' has {depth.shape[1]} x {depth.shape[0]} pixels, its "
                        f"picture {image.shape[1]} x {image.shape[0]}; they must be of one size."
                    )
                check_depth(depth, "metric", where=f"{where}, camera '{name}'")
            if self.augmentation is not None:
                image, depth = augment(image, depth, self.augmentation, rng)
            images.append(image)
            if depth is not None:
                depths[place] = depth
        wordings = (episode.instruction, *episode.paraphrases)
        wording = wordings[int(rng.integers(len(wordings)))] if self.augmentation is not None else wordings[0]
        sample = observe(self.preparer, images, wording, record_ids=(f"{episode.id}/{step}",))
        assert episode.states is not None
        assert episode.actions is not None
        chunk = chunk_of(episode.actions, step, self.data.options.horizon, self.data.stride)
        return replace(
            sample,
            depth_maps=self._depth_maps(depths, where),
            action=self._target(episode.states[step], chunk),
        )

    def idle(self) -> Sample:
        """See `SampleSource`: a chunk of padding alone."""
        empty = np.zeros((self.data.options.horizon, self.data.action_space.dim), np.float32)
        chunk = Chunk(actions=empty, valid=np.zeros(len(empty), bool))
        state = np.zeros(self.data.state_dim, np.float32)
        return replace(idle_sample(self.preparer), action=self._target(state, chunk))

    def placeholder(self) -> DepthTargets:
        """See `SampleSource`."""
        return depth_placeholder(self.preparer)

    @property
    def pad_id(self) -> int:
        """See `SampleSource`."""
        return self.preparer.tokenizer.pad_id

    @property
    def left_out(self) -> Counter[str]:
        """See `SampleSource`."""
        return self.preparer.counts

    def _depth_maps(self, depths: Mapping[int, np.ndarray], where: str) -> tuple[DepthMap, ...]:
        made = [self.preparer.depth_map(depth, place, where=where) for place, depth in depths.items()]
        return tuple(each for each in made if each is not None)

    def _target(self, state: np.ndarray, chunk: "Chunk") -> ActionTarget:
        return ActionTarget(
            state=torch.from_numpy(self.normalization.normalize_state(state)),
            actions=torch.from_numpy(self.normalization.normalize_actions(chunk.actions)),
            valid=torch.from_numpy(chunk.valid),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The actions that follow one step."""

    actions: Float[np.ndarray, "horizon dim"]
    """After the episode's end, the chunk's last action again."""
    valid: Bool[np.ndarray, "horizon"]
    """False there."""


def chunk_of(actions: Float[np.ndarray, "step dim"], step: int, horizon: int, stride: int = 1) -> Chunk:
    """The chunk that begins at a step.

    Args:
        actions: of a whole episode; row i is what follows step i.
        step: of the observation, within `actions`.
        horizon: how many actions.
        stride: steps of the data from one of them to the next.
    """
    places = step + stride * np.arange(horizon)
    valid = places < len(actions)
    return Chunk(actions=actions[np.where(valid, places, places[valid][-1])], valid=valid)
