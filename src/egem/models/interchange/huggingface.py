"""Parts from the layouts of transformers and diffusers."""

from dataclasses import replace
from pathlib import Path

import torch

from egem.core.errors import CheckpointError
from egem.models.connector import Connector
from egem.models.interchange import hub
from egem.models.interchange.parts import Part, Parts, backbone_skeleton, is_tied, read_json, require_class
from egem.models.interchange.tensors import TensorTable, in_memory, read_folder

HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
"""Stored once when the embeddings are tied."""

_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "LICENSE",
)
"""What travels with a backbone's weights, where it is there."""

_CLASSES = {
    "transformer": ("SanaTransformer2DModel", "--depth-head"),
    "vae": ("AutoencoderDC", "--codec"),
}
"""Of the folders of a Sana pipeline, with the options that name them."""

_NORM = "model.language_model.norm.weight"


def read_parts(backbone: str, depth_head: str, codec: str, *, seed: int) -> Parts:
    """The parts of a new model: everything pre-trained but the connector.

    Args:
        backbone: Qwen3-VL in transformers' layout: a folder, or a hub id as in `hub.locate`.
        depth_head: Sana in diffusers' layout: a pipeline with `transformer/`, or that folder itself.
        codec: AutoencoderDC in diffusers' layout: a pipeline with `vae/`, or that folder itself.
        seed: of the connector.

    Raises:
        CheckpointError: a folder is not there, is of another kind, or cannot be fetched.
    """
    qwen = read_backbone(hub.locate(backbone, hub.BACKBONE_FILES))
    sana = read_diffusers(hub.locate(depth_head, hub.DEPTH_HEAD_FILES), "transformer")
    return Parts(
        backbone=qwen,
        connector=_new_connector(qwen, sana, seed),
        depth_head=sana,
        depth_codec=read_diffusers(hub.locate(codec, hub.DEPTH_CODEC_FILES), "vae"),
    )


def read_backbone(folder: Path, *, weights: bool = True) -> Part:
    """A Qwen3-VL folder.

    Args:
        folder: in transformers' layout.
        weights: False leaves the tensors out, for a folder that holds none or others.

    Raises:
        CheckpointError: it has no config.json, is no Qwen3-VL, or its weights cannot be read.
    """
    config = read_json(folder / "config.json", "a Qwen3-VL")
    files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}
    part = Part(where=str(folder), config=config, tensors={}, files=files)
    qwen = backbone_skeleton(part)
    if not weights:
        return part
    tensors = without_tied_head(read_folder(folder, "model"), tied=is_tied(qwen), where=part.where)
    return Part(where=part.where, config=config, tensors=tensors, files=files)


def read_diffusers(folder: Path, subfolder: str, *, weights: bool = True) -> Part:
    """A model of a diffusers pipeline, or a diffusers model by itself.

    Args:
        folder: the pipeline's, or the model's.
        subfolder: of the model in a pipeline.
        weights: False leaves the tensors out.

    Raises:
        CheckpointError: there is none, it is of another class, or its weights cannot be read.
    """
    if (folder / subfolder).is_dir():
        folder = folder / subfolder
    config = read_json(folder / "config.json", f"a diffusers model or a pipeline with {subfolder}/")
    config.pop("_name_or_path", None)  # a folder on somebody's machine
    part = Part(where=str(folder), config=config, tensors={})
    require_class(part, *_CLASSES[subfolder])
    return replace(part, tensors=read_folder(folder, "diffusion_pytorch_model")) if weights else part


def without_tied_head(tensors: TensorTable, *, tied: bool, where: str) -> TensorTable:
    """Leave the output head out where it is the embedding, of which some checkpoints hold a copy.

    Raises:
        CheckpointError: the head differs from the embedding although the configuration ties them.
    """
    if not tied or HEAD not in tensors or EMBEDDING not in tensors:
        return tensors
    if not torch.equal(tensors[HEAD].load(), tensors[EMBEDDING].load()):
        raise CheckpointError(
            f"{where}: config.json ties {HEAD} to {EMBEDDING}, but the two differ; "
            'set "tie_word_embeddings" to false there to keep both.'
        )
    return {name: tensor for name, tensor in tensors.items() if name != HEAD}


def _new_connector(backbone: Part, depth_head: Part, seed: int) -> Part:
    """Random weights in the backbone's number format, whose hidden states it reads."""
    text = backbone.config.get("text_config") or {}
    sizes = {
        "hidden_size": text.get("hidden_size"),
        "context_size": depth_head.config.get("caption_channels"),
    }
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            where = backbone.where if name == "hidden_size" else depth_head.where
            raise CheckpointError(f"{where}: config.json does not say how wide it is; copy it again.")
    if _NORM not in backbone.tensors:
        raise CheckpointError(f"{backbone.where}: the weights are not those of this model. missing: {_NORM}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        connector = Connector(**sizes).to(backbone.tensors[_NORM].load().dtype)
    tensors = {name: in_memory(value) for name, value in connector.state_dict().items()}
    return Part(where=f"new connector of seed {seed}", config={}, tensors=tensors)
