"""A GEM-VLA checkpoint as what a server needs: actions, and on demand what the same weights say and draw."""

from pathlib import Path

from egem.evaluation.predictor import Predictor
from egem.models.action_sampler import Compiled
from egem.models.vla_policy import CheckpointPolicy
from egem.policy import DepthGuess, Observation
from egem.records import IMAGE_MARK, Message

_ANSWER_TOKENS = 64


class ServedCheckpoint(CheckpointPolicy):
    """A `CheckpointPolicy` that also implements `egem.policy.Explains`."""

    @classmethod
    def load(
        cls, folder: Path, *, device: str = "auto", compiled: Compiled = "none", cuda_graph: bool = False
    ) -> "ServedCheckpoint":
        """The policy of a checkpoint folder.

        Args:
            folder: of a GEM-VLA.
            device: see `device_of`.
            compiled: see `ActionSampler`.
            cuda_graph: likewise.

        Raises:
            CheckpointError: the folder is not whole, or holds no action expert or policy files.
            ConfigError: no such device here, or a CUDA graph without a GPU.
        """
        policy = cls.from_checkpoint(folder, device=device, compiled=compiled, cuda_graph=cuda_graph)
        assert isinstance(policy, cls)
        return policy

    def explain(self, observation: Observation, question: str) -> str:
        """The answer to a question about all pictures that the policy looks at, in its order of cameras."""
        images = [observation.images[camera] for camera in self.info.cameras]
        marks = IMAGE_MARK * len(images)
        sample = self.preparer.prompt([Message(role="user", content=marks + question)], images)
        tokens = self.model.generate_text([sample], max_new_tokens=_ANSWER_TOKENS)
        return self.preparer.tokenizer.decode(tokens[0]).strip()

    def draw_depth(self, observation: Observation) -> dict[str, DepthGuess]:
        """Depth of every camera that the policy looks at, at the size that the checkpoint draws."""
        cameras = self.info.cameras
        drawn = Predictor(self.model, self.preparer).draw_depth(
            [observation.images[camera] for camera in cameras]
        )
        return {
            camera: DepthGuess(values=depth.values, kind=depth.kind)
            for camera, depth in zip(cameras, drawn, strict=True)
        }
