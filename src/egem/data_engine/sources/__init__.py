"""The table of sources. A new one is a file with a function `rows` and an entry here.

`docs/sources.md` shows the table for readers.
"""

from egem.data_engine.sources import (
    llava,
    mindcube,
    paco,
    refspatial,
    rgbd,
    robo2vlm,
    roboafford,
    robopoint,
    roborefit,
    robovqa,
    sharerobot,
    spar,
    vica,
    vsi_590k,
)
from egem.data_engine.sources.source import ImportOptions, Row, Source

_ALL = (
    Source(
        name="rgbd",
        categories=("grounding", "spatial"),
        description="colour + depth + intrinsics: a manifest or a folder",
        licence="of whoever made the frames; a frame can state it",
        layout="a manifest (.json, .jsonl), or folders color/ and depth/",
        rows=rgbd.rows,
    ),
    Source(
        name="llava",
        categories=("grounding", "spatial", "planning"),
        description="LLaVA-style rows with images or videos, and an optional depth folder",
        licence="of whoever made the rows",
        layout="*.json or *.jsonl, and the images they name",
        rows=llava.rows,
    ),
    Source(
        name="gem-250k",
        categories=("grounding", "spatial", "planning"),
        description="the released GEM-250K: LLaVA-style rows with depth/ beside them",
        licence="MIT",
        layout="*.json or *.jsonl, the images they name, depth/",
        rows=llava.gem_250k_rows,
    ),
    Source(
        name=paco.NAME,
        categories=("grounding",),
        description="boxes and points of objects and their parts, with masks",
        licence=paco.LICENCE,
        layout="paco_lvis_*.json (also in annotations/), and COCO's train2017/, val2017/",
        rows=paco.rows,
    ),
    Source(
        name=robopoint.NAME,
        categories=("grounding", "spatial"),
        description="points for objects and free regions, boxes, general questions",
        licence=robopoint.LICENCE,
        layout="robopoint_*.json, and images/ or the folders its rows name",
        rows=robopoint.rows,
    ),
    Source(
        name=roboafford.NAME,
        categories=("grounding",),
        description="where to grasp, point at and put things, with masks",
        licence=roboafford.LICENCE,
        layout="annotations_normxy.json, images/, masks/; or LLaVA-style *.json with their images",
        rows=roboafford.rows,
    ),
    Source(
        name=sharerobot.NAME,
        categories=("grounding", "planning"),
        description="affordance boxes, gripper trajectories, planning questions",
        licence=sharerobot.LICENCE,
        layout="any of affordance/*.json, trajectory/*.json, planning/**/*.json with images/ beside them",
        rows=sharerobot.rows,
    ),
    Source(
        name=roborefit.NAME,
        categories=("grounding",),
        description="box and mask of a thing that an expression refers to",
        licence=roborefit.LICENCE,
        layout="roborefit_{train,testA,testB}.json, and final_dataset/",
        rows=roborefit.rows,
    ),
    Source(
        name=mindcube.NAME,
        categories=("spatial",),
        description="what lies where, from two to four views",
        licence=mindcube.LICENCE,
        layout="MindCube*.jsonl (also in raw/), and other_all_image/",
        rows=mindcube.rows,
    ),
    Source(
        name=vica.NAME,
        categories=("spatial",),
        description="questions about videos of rooms",
        licence=vica.LICENCE,
        layout="{arkitscenes,scannet,scannetpp}/{base,complex}/*.json; videos there or in --media",
        rows=vica.rows,
    ),
    Source(
        name=spar.NAME,
        categories=("spatial",),
        description="33 kinds of questions about marked views, with depth where the release has it",
        licence=spar.LICENCE,
        layout="{scannet,scannetpp,structured3d,rxr}/{images,qa_jsonl}/",
        rows=spar.rows,
    ),
    Source(
        name=vsi_590k.NAME,
        categories=("spatial",),
        description="questions about videos and images of rooms",
        licence=vsi_590k.LICENCE,
        layout="vsi_590k.jsonl, and the videos and images it names",
        rows=vsi_590k.rows,
    ),
    Source(
        name=robovqa.NAME,
        categories=("spatial",),
        description="questions about clips of robots and people at work",
        licence=robovqa.LICENCE,
        layout="*.tfrecord* of tf.train.SequenceExample, in any folder",
        rows=robovqa.rows,
    ),
    Source(
        name=robo2vlm.NAME,
        categories=("spatial",),
        description="choices about robot episodes",
        licence=robo2vlm.LICENCE,
        layout="data/*.parquet",
        rows=robo2vlm.rows,
    ),
    Source(
        name=refspatial.NAME,
        categories=("spatial",),
        description="referring to objects and places by points, with relative depth",
        licence=refspatial.LICENCE,
        layout="2D/, 3D/, Simulator/ with *.json, image/ and depth/",
        rows=refspatial.rows,
    ),
)

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
"""Name to source."""

__all__ = ["SOURCES", "ImportOptions", "Row", "Source"]
