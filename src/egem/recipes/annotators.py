"""The options of `egem data annotate depth|objects|masks|tracks`, and what they load."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from egem.annotators.objects import ObjectNamer
from egem.annotators.steps import DepthStep, MasksStep, ObjectsStep, Step, TracksStep
from egem.annotators.tracks import PointTracker
from egem.core.errors import ConfigError
from egem.recipes.annotate import AnnotateConfig


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Depth for images that have none."""

    checkpoint: str
    """Folder or name on the hub: Depth Anything 3 (`depth-anything/DA3METRIC-LARGE`) or a model of transformers."""
    estimator: Literal["auto", "depth-anything-3", "transformers"] = "auto"
    """`auto` takes Depth Anything 3 where the checkpoint's name begins with DA3."""
    output: Literal["auto", "metric", "relative", "disparity"] = "auto"
    """What a transformers model gives; `auto` knows Depth Anything V2, Depth Pro, ZoeDepth, GLPN and DPT."""
    focal: float | None = None
    """Focal length in pixels of images whose records have no intrinsics, for models that need it."""
    renew: bool = False
    """Also replace the depth that is there."""
    work: OmitArgPrefixes[AnnotateConfig]

    def make_step(self, device: str) -> Step:
        """Load the estimator."""
        from egem.annotators.checkpoints import checkpoint_name
        from egem.annotators.depth_anything3 import DepthAnything3Depth
        from egem.annotators.transformers_depth import TransformersDepth

        if self.focal is not None and self.focal <= 0:
            raise ConfigError(f"focal {self.focal} must be positive: pixels.")
        is_da3 = checkpoint_name(self.checkpoint).upper().startswith("DA3")
        if self.estimator == "depth-anything-3" or (self.estimator == "auto" and is_da3):
            estimator = DepthAnything3Depth.from_pretrained(self.checkpoint, device=device)
        else:
            output = None if self.output == "auto" else self.output
            estimator = TransformersDepth.from_pretrained(self.checkpoint, output=output, device=device)
        return DepthStep(estimator=estimator, focal=self.focal, renew=self.renew)


@dataclass(frozen=True, kw_only=True)
class NamerConfig:
    """What names the manipulated thing of a sentence."""

    namer: Literal["rules", "endpoint", "local"] = "rules"
    """`rules` reads plain imperatives, `endpoint` asks an OpenAI-compatible server, `local` a model of transformers."""
    url: str | None = None
    """Of the endpoint, up to and with /v1; its key in EGEM_NAMER_KEY."""
    model: str | None = None
    """The name the endpoint knows its model by, or the local model's folder or name on the hub."""
    cache: Path | None = None
    """File of answers, so that no question is asked twice; beside --out if None."""

    def make(self, *, device: str, sees: bool, out: Path) -> ObjectNamer:
        """Load or address it.

        Raises:
            ConfigError: an option is missing.
        """
        from egem.annotators.objects import ModelNamer, SentenceRules

        if self.namer == "rules":
            if sees:
                raise ConfigError(
                    "rules read sentences only; name what images show with --namer endpoint or local."
                )
            return SentenceRules()
        if self.model is None or (self.namer == "endpoint" and self.url is None):
            wanted = "--url and --model" if self.namer == "endpoint" else "--model"
            raise ConfigError(f"--namer {self.namer} needs {wanted}.")
        cache = self.cache or out.with_name(f"{out.name}.answers.jsonl")
        if self.namer == "endpoint":
            from egem.evaluation.chat import NAMER_KEY, ChatServer

            assert self.url is not None
            server = ChatServer(url=self.url, model=self.model, key_variable=NAMER_KEY)
            return ModelNamer(server, cache)
        from egem.annotators.local_chat import LocalChat

        return ModelNamer(LocalChat.from_pretrained(self.model, sees=sees, device=device), cache)


@dataclass(frozen=True, kw_only=True)
class ObjectsConfig:
    """Names of the manipulated thing (from the sub-task's sentence) and, with --nouns, of what can be seen."""

    nouns: bool = False
    """Also name the things in the first image; needs a model that sees."""
    requests: int = 8
    """Asked of an endpoint at the same time."""
    naming: OmitArgPrefixes[NamerConfig] = field(default_factory=NamerConfig)
    work: OmitArgPrefixes[AnnotateConfig]

    def make_step(self, device: str) -> Step:
        """Load the model, or address it."""
        namer = self.naming.make(device=device, sees=self.nouns, out=self.work.out)
        requests = self.requests if self.naming.namer == "endpoint" else 1
        return ObjectsStep(namer=namer, nouns=self.nouns, requests=requests)


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    """Masks, boxes and points of named things with SAM 3, and questions about them."""

    checkpoint: str
    """Folder or name on the hub (`facebook/sam3`)."""
    phrases: tuple[str, ...] = ()
    """Looked for in every image; what `annotate objects` has named if empty."""
    clips: bool = False
    """Take the images of a group as frames of a clip, so that things keep their number."""
    questions: bool = True
    """Ask for boxes and points too."""
    min_score: float = 0.3
    """Of a detection, 0 to 1 (single images)."""
    work: OmitArgPrefixes[AnnotateConfig]

    def make_step(self, device: str) -> Step:
        """Load SAM 3."""
        from egem.annotators.sam3 import Sam3, Sam3Clips, Sam3Options

        if self.clips:
            detector = Sam3Clips.from_pretrained(self.checkpoint, device=device)
        else:
            options = Sam3Options(min_score=self.min_score)
            detector = Sam3.from_pretrained(self.checkpoint, options=options, device=device)
        return MasksStep(detector=detector, phrases=self.phrases, questions=self.questions)


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """What follows points."""

    cotracker: Path | None = None
    """TorchScript file of CoTracker3, or a checkout of co-tracker; without it, OpenCV's optical flow."""
    cotracker_weights: Path | None = None
    """Of a checkout: the offline model's weights as safetensors."""

    def make(self, device: str) -> PointTracker:
        """Load it."""
        from egem.annotators.cotracker import CoTracker3
        from egem.annotators.tracks import OpticalFlow, load_opencv

        if self.cotracker is None:
            load_opencv()
            return OpticalFlow()
        return CoTracker3.load(self.cotracker, weights=self.cotracker_weights, device=device)


@dataclass(frozen=True, kw_only=True)
class TracksConfig:
    """Ways of things through the frames of clips, from the masks of their first frames."""

    tracker: OmitArgPrefixes[TrackerConfig] = field(default_factory=TrackerConfig)
    questions: bool = True
    """Ask for the ways too."""
    work: OmitArgPrefixes[AnnotateConfig]

    def make_step(self, device: str) -> Step:
        """Load the tracker."""
        return TracksStep(tracker=self.tracker.make(device), questions=self.questions)
