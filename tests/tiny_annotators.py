"""Tiny random checkpoints of annotators, in the formats of the published ones."""

from pathlib import Path

import torch


def depth_anything_v2(folder: Path, kind: str = "relative") -> Path:
    """A Depth Anything V2 (`relative`: disparity, `metric`: metres) with its image processor."""
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessorPil,
    )

    torch.manual_seed(0)
    backbone = Dinov2Config(
        image_size=28,
        patch_size=14,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        out_indices=[1, 2],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8],
        reassemble_factors=[2, 1],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    processor = DPTImageProcessorPil(
        size={"height": 28, "width": 28},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


_DETECTOR = {
    "vision_config": {
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "window_size": 4,
            "global_attn_indexes": [1],
            "pretrain_image_size": 56,
        },
        "fpn_hidden_size": 128,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    },
    "text_config": {
        "model_type": "clip_text_model",
        "vocab_size": 64,
        "hidden_size": 128,
        "intermediate_size": 64,
        "projection_dim": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    },
    "geometry_encoder_config": {
        "hidden_size": 128,
        "num_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "detr_encoder_config": {
        "hidden_size": 128,
        "num_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "detr_decoder_config": {
        "hidden_size": 128,
        "num_layers": 1,
        "num_queries": 5,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "mask_decoder_config": {"hidden_size": 128, "num_upsampling_stages": 3, "num_attention_heads": 2},
}

_TRACKER = {
    "vision_config": {**_DETECTOR["vision_config"], "model_type": "sam3_vision_model"},
    "prompt_encoder_config": {"hidden_size": 128, "image_size": 112, "patch_size": 14},
    "mask_decoder_config": {
        "hidden_size": 128,
        "mlp_dim": 64,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 128,
    },
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 64,
    "memory_attention_rope_feat_sizes": [8, 8],
    "memory_encoder_hidden_size": 128,
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 64,
    "image_size": 112,
}


def sam3(folder: Path) -> Path:
    """A `Sam3Model` with tokenizer and the sizes of its images."""
    from transformers import Sam3Config, Sam3Model

    torch.manual_seed(0)
    Sam3Model(Sam3Config(**_DETECTOR)).save_pretrained(folder)
    return _with_processor(folder)


def sam3_video(folder: Path) -> Path:
    """A `Sam3VideoModel` that takes every detection for a thing."""
    from transformers import Sam3VideoConfig, Sam3VideoModel

    torch.manual_seed(0)
    config = Sam3VideoConfig(
        detector_config={"model_type": "sam3", **_DETECTOR},
        tracker_config={"model_type": "sam3_tracker_video", **_TRACKER},
        low_res_mask_size=32,
        score_threshold_detection=0.0,
        new_det_thresh=0.0,
        det_nms_thresh=0.0,
        hotstart_delay=0,
        hotstart_unmatch_thresh=0,
        hotstart_dup_thresh=0,
        max_num_objects=2,
        fill_hole_area=0,
    )
    Sam3VideoModel(config).save_pretrained(folder)
    return _with_processor(folder)


def _with_processor(folder: Path) -> Path:
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", "red", "mug", "robot", "gripper"]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = {"size": {"height": 112, "width": 112}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": sizes}))
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: sam-license\n---\n")
    return folder
