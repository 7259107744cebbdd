"""A GEM-VLA checkpoint as a policy: observations in, chunks of actions in the robot's units out.

What a robot needs besides weights lies in the checkpoint's `policy/` folder: `policy.json` (a `PolicyInfo`: cameras,
state, action space, chunk, rate) and `normalization.json`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from egem.batch import Sample
from egem.core.config import from_dict, to_dict
from egem.core.errors import CheckpointError, ConfigError
from egem.core.files import hash_of_files
from egem.data.actions import observe
from egem.data.normalization import NORMALIZATION_FILE, Normalization
from egem.data.prepare import Preparer
from egem.device import device_of, inference_dtype
from egem.models.action_sampler import ActionSampler, Compiled
from egem.models.gem_vla import GEMVLA
from egem.policy import Observation, PolicyInfo

POLICY_FILE = "policy.json"


def policy_files(info: PolicyInfo, normalization: Normalization) -> dict[str, bytes]:
    """What a checkpoint's `policy/` folder holds, by name (`GEMVLA.policy_files`)."""
    return {
        name: (json.dumps(to_dict(values), indent=2) + "\n").encode()
        for name, values in ((POLICY_FILE, info), (NORMALIZATION_FILE, normalization))
    }


def read_policy_files(model: GEMVLA, where: str) -> tuple[PolicyInfo, Normalization]:
    """The inverse of `policy_files`, checked against each other and the action expert.

    Args:
        model: with its files.
        where: whose they are, for messages.

    Raises:
        CheckpointError: one is missing or damaged, or they do not fit.
    """
    config, found = model.action_expert.config, []
    for name, kind in ((POLICY_FILE, PolicyInfo), (NORMALIZATION_FILE, Normalization)):
        if name not in model.policy_files:
            raise CheckpointError(
                f"{where} has no policy/{name}: without it nobody knows what the model's numbers mean to the robot. "
                "Copy it from the model folder of the run that trained it, or train from the data again."
            )
        try:
            found.append(from_dict(kind, json.loads(model.policy_files[name]), f"{where}/policy/{name}"))
        except (ValueError, ConfigError) as error:
            raise CheckpointError(
                f"{where}: policy/{name} cannot be read ({error}); copy it again."
            ) from None
    info, normalization = found
    told = (info.state_dim, info.action_space.dim, info.horizon)
    built = (config.state_dim, config.action_dim, config.horizon)
    if told != built:
        raise CheckpointError(
            f"{where}: policy/{POLICY_FILE} says {told[0]} state and {told[1]} action dimensions and chunks of "
            f"{told[2]}, the action expert was built for {built[0]}, {built[1]} and {built[2]}; the folder is put "
            "together of two checkpoints."
        )
    try:
        normalization.require_dims(state=told[0], action=told[1], where=f"policy/{POLICY_FILE}")
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from None
    return info, normalization


class CheckpointPolicy:
    """A `Policy` that samples from a checkpoint; also says what the model sees, by `model` and `preparer`.

    Args:
        model: in evaluation mode.
        preparer: of its checkpoint.
        where: the checkpoint, for messages.
        num_steps: of the sampler; the checkpoint's default otherwise.
        compiled: see `ActionSampler`; the first chunks then take long.
        cuda_graph: likewise.

    Raises:
        CheckpointError: its policy files are missing, damaged or do not fit.
        ConfigError: a CUDA graph without a GPU.
    """

    def __init__(
        self,
        model: GEMVLA,
        preparer: Preparer,
        *,
        where: str = "the model",
        num_steps: int | None = None,
        compiled: Compiled = "none",
        cuda_graph: bool = False,
    ) -> None:
        self.model = model
        self.preparer = preparer
        self._sampler = ActionSampler(model, num_steps=num_steps, compiled=compiled, cuda_graph=cuda_graph)
        self._info, self.normalization = read_policy_files(model, where)

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        num_steps: int | None = None,
        compiled: Compiled = "none",
        cuda_graph: bool = False,
        name: str | None = None,
    ) -> "CheckpointPolicy":
        """The policy of a checkpoint folder.

        Args:
            folder: of a GEM-VLA.
            device: see `device_of`.
            dtype: of the weights; see `inference_dtype`.
            num_steps: see the class.
            compiled: see the class.
            cuda_graph: see the class.
            name: for logs and servers; the one stored otherwise.

        Raises:
            CheckpointError: the folder is not whole, or holds no action expert or policy files.
            ConfigError: no such device here, or a CUDA graph without a GPU.
        """
        folder, place = Path(folder), device_of(device)
        model = GEMVLA.from_pretrained(folder, dtype=inference_dtype(dtype, place), device=place).eval()
        policy = cls(
            model,
            Preparer.from_checkpoint(folder),
            where=str(folder),
            num_steps=num_steps,
            compiled=compiled,
            cuda_graph=cuda_graph,
        )
        policy._info = replace(
            policy._info, name=name or policy._info.name, fingerprint=hash_of_files(folder)[:16]
        )
        return policy

    @property
    def info(self) -> PolicyInfo:
        """See `Policy`."""
        return self._info

    def act(
        self,
        observations: Sequence[Observation],
        *,
        previous: Sequence[Float[np.ndarray, "kept action"] | None] | None = None,
        committed: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> list[Float[np.ndarray, "horizon action"]]:
        """See `Policy`; each chunk depends on its observation and place in the list alone."""
        if not observations:
            return []
        if previous is not None and len(previous) != len(observations):
            raise ConfigError(
                f"{len(previous)} previous chunks for {len(observations)} observations; give one each, or None."
            )
        if committed is not None and (previous is None or len(committed) != len(observations)):
            raise ConfigError(
                f"{len(committed)} counts of committed actions for {len(observations)} observations; give one for each "
                "previous chunk, 0 where there is none."
            )
        samples = self.samples(observations)
        states = np.stack([self.normalization.normalize_state(each.state) for each in observations])
        kept = None
        if previous is not None:
            kept = [None if p is None else self._normalized(n, p) for n, p in enumerate(previous)]
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        chunks = self._sampler(
            samples, torch.from_numpy(states), generator=generator, previous=kept, committed=committed
        )
        actions = self.normalization.denormalize_actions(chunks.float().cpu().numpy())
        if not np.isfinite(actions).all():
            raise CheckpointError(
                "the model's actions are not finite; its weights are damaged or from a run that failed."
            )
        return list(actions)

    def samples(self, observations: Sequence[Observation]) -> list[Sample]:
        """What the model sees of each observation.

        Raises:
            ConfigError: a camera is missing; a picture is none, or of another size than in training; a state has
                another shape or is not finite.
        """
        found = []
        for number, observation in enumerate(observations):
            where = f"observation {number}"
            missing = [name for name in self._info.cameras if name not in observation.images]
            if missing:
                raise ConfigError(
                    f"{where} has no picture of camera {', '.join(missing)}; it has "
                    f"{', '.join(observation.images) or 'none'}. Give the cameras that the policy was trained with."
                )
            images = [observation.images[name] for name in self._info.cameras]
            sizes = self._info.picture_sizes or (None,) * len(images)
            for name, image, size in zip(self._info.cameras, images, sizes, strict=True):
                if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                    raise ConfigError(
                        f"{where}: camera '{name}' gave {image.dtype} {image.shape}; RGB of 8 bits is needed, height x "
                        "width x 3."
                    )
                if size is not None and image.shape[:2] != size:
                    raise ConfigError(
                        f"{where}: camera '{name}' gave {image.shape[0]} x {image.shape[1]} pixels (height x width), "
                        f"the policy was trained on {size[0]} x {size[1]}; resize as its training data were."
                    )
            state = np.asarray(observation.state)
            if state.shape != (self._info.state_dim,):
                raise ConfigError(
                    f"{where}: a state of shape {state.shape}, the policy wants ({self._info.state_dim},)."
                )
            bad = np.flatnonzero(~np.isfinite(state))
            if bad.size:
                named = self._info.state_names[bad[0]] if self._info.state_names else f"number {bad[0]}"
                raise ConfigError(
                    f"{where}: the state is not finite ({named} is {state[bad[0]]}); check the robot's sensors."
                )
            if not observation.instruction.strip():
                raise ConfigError(f"{where} has no instruction; say what is to be done.")
            found.append(observe(self.preparer, images, observation.instruction))
        return found

    def _normalized(self, number: int, actions: np.ndarray) -> torch.Tensor:
        actions = np.asarray(actions, np.float32)
        if (
            actions.ndim != 2
            or actions.shape[1] != self._info.action_space.dim
            or not np.isfinite(actions).all()
        ):
            raise ConfigError(
                f"previous chunk {number}: {actions.shape}, finite (steps, {self._info.action_space.dim}) is needed."
            )
        return torch.from_numpy(self.normalization.normalize_actions(actions))
