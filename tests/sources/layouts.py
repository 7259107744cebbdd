"""Each source's published layout, built by code: one picture of a red thing on grey, known to the pixel."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sources.tfrecords import sequence_example, write_tfrecords

WIDTH, HEIGHT = 120, 80
LEFT, TOP, RIGHT, BOTTOM = 30, 20, 75, 50
"""The thing's pixels: columns LEFT to RIGHT - 1, rows TOP to BOTTOM - 1."""
BOX = (250, 250, 625, 625)
"""The same, 0 to 1000."""
RED = (220, 40, 30)


def pixels() -> np.ndarray:
    grey = np.random.default_rng(0).integers(110, 140, (HEIGHT, WIDTH, 1))
    image = np.repeat(grey, 3, axis=2).astype(np.uint8)
    image[TOP:BOTTOM, LEFT:RIGHT] = RED
    return image


def mask() -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[TOP:BOTTOM, LEFT:RIGHT] = True
    return found


def encoded(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(
        buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})
    )
    return buffer.getvalue()


def save_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded("JPEG" if path.suffix == ".jpg" else "PNG"))
    return path


def save_mask(path: Path, value: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((mask() * value).astype(np.uint8)).save(path)


def save_counts(path: Path, value: int = 1500, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """A 16-bit depth map, nearer where the thing is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = np.full((HEIGHT, WIDTH), value, np.uint16)
    counts[mask()] = value // 2
    rows = np.arange(size[1]) * HEIGHT // size[1]
    columns = np.arange(size[0]) * WIDTH // size[0]
    Image.fromarray(counts[rows[:, None], columns]).save(path)


def save_video(path: Path, num: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(num):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(), format="rgb24")))
        container.mux(stream.encode())


def save_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in value))
    else:
        path.write_text(json.dumps(value))
    return path


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


def runs(found: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths, by walking the columns."""
    counts, current, value = [], 0, False
    for pixel in found.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(current)
            current, value = 0, pixel
        current += 1
    return [*counts, current]


def compressed(counts: list[int]) -> str:
    """COCO's string of run lengths, one number after the other as its C code writes them."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            group = value & 0x1F
            value >>= 5
            more = value != -1 if group & 0x10 else value != 0
            text += chr((group | 0x20 if more else group) + 48)
            if not more:
                break
    return text


def paco(folder: Path) -> Path:
    save_image(folder / "train2017" / "000000000009.jpg")
    part = np.zeros((HEIGHT, WIDTH), bool)
    part[TOP:30, LEFT:40] = True
    blue = np.zeros((HEIGHT, WIDTH), bool)
    blue[60:70, 90:110] = True

    def annotation(number: int, category: int, obj: int, found: np.ndarray, **more: Any) -> dict[str, Any]:
        rows, columns = np.nonzero(found)
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        return {
            "id": number,
            "bbox": [float(v) for v in box],
            "area": float(found.sum()),
            "category_id": category,
            "image_id": 9,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": compressed(runs(found))},
            "attribute_ids": [],
            "dom_color_ids": [],
            "obj_ann_id": obj,
            "unknown_color": 0,
            **more,
        }

    save_json(
        folder / "annotations" / "paco_lvis_v1_train.json",
        {
            "images": [
                {
                    "id": 9,
                    "file_name": "train2017/000000000009.jpg",
                    "width": WIDTH,
                    "height": HEIGHT,
                    "neg_category_ids": [],
                    "not_exhaustive_category_ids": [7],
                    "license": 3,
                },
                {"id": 10, "file_name": "train2017/none.jpg", "width": 4, "height": 4, "license": 3},
            ],
            "annotations": [
                annotation(1, 3, 1, mask(), attribute_ids=[20]),
                annotation(2, 100, 1, part),
                annotation(3, 3, 3, blue, attribute_ids=[21]),
                annotation(4, 7, 4, blue),
            ],
            "categories": [
                {"id": 3, "name": "mug", "supercategory": "OBJECT"},
                {"id": 7, "name": "book", "supercategory": "OBJECT"},
                {"id": 100, "name": "mug:handle", "supercategory": "PART"},
            ],
            "part_categories": [{"id": 1, "name": "handle", "supercategory": "PART"}],
            "attributes": [
                {"id": 20, "name": "red", "supercategory": "ATTR"},
                {"id": 21, "name": "light_blue", "supercategory": "ATTR"},
            ],
            "attr_type_to_attr_idxs": {"color": [20, 21], "material": []},
        },
    )
    return folder


ROBOPOINT_FORM = (
    "Your answer should be formatted as a list of tuples, i.e. [(x1, y1), (x2, y2), ...], where each tuple contains "
    "the x and y coordinates of a point satisfying the conditions above. The coordinates should be between 0 and 1, "
    "indicating the normalized pixel locations of the points in the image."
)


def robopoint(folder: Path) -> Path:
    for name in ("region_ref/a.png", "object_ref/b.png", "coco/train2017/c.jpg"):
        save_image(folder / "images" / name)
    question = f"<image>\nPinpoint several points on the red thing. {ROBOPOINT_FORM}"
    save_json(
        folder / "robopoint_1432k.json",
        [
            {
                "id": "region_ref/a_left",
                "image": "region_ref/a.png",
                "conversations": talk(question, "[(0.301, 0.402), (0.600, 0.55)]"),
            },
            {
                "id": "object_ref/b",
                "image": "object_ref/b.png",
                "conversations": talk(question, "[(0.4, 0.3)]"),
            },
            {
                "id": "c",
                "image": "coco/train2017/c.jpg",
                "conversations": talk(
                    "<image>\nFind all red things as boxes [(x1, y1, w1, h1), ...] with values between 0 and 1.",
                    "[(0.25, 0.25, 0.375, 0.375)]",
                ),
            },
            {"id": "d", "conversations": talk("Say hello.", "Hello.")},
        ],
    )
    return folder


def roboafford(folder: Path) -> Path:
    save_image(folder / "images" / "00.jpg")
    save_mask(folder / "masks" / "object_affordance_img_00_anno_1.png")
    corners = [[LEFT, TOP], [RIGHT, TOP], [RIGHT, BOTTOM], [LEFT, BOTTOM]]
    question = f"Which part of the red thing is to be grasped? {ROBOPOINT_FORM}"
    shared = {"question": question, "img": "00.jpg"}

    def rows(width: float, height: float) -> list[dict[str, Any]]:
        polygon = [[x / width, y / height] for x, y in corners]
        points = [[40 / width, 30 / height], [60 / width, 40 / height]]
        return [
            {
                "category": "object affordance",
                "answer": [polygon],
                "mask": "object_affordance_img_00_anno_1.png",
                **shared,
            },
            {"category": "object reference", "answer": [polygon], **shared},
            {"category": "spatial affordance", "answer": points, **shared},
        ]

    save_json(folder / "annotations_normxy.json", rows(WIDTH, HEIGHT))
    save_json(folder / "annotations_absxy.json", rows(1, 1))
    return folder


def sharerobot(folder: Path) -> Path:
    save_image(folder / "affordance" / "images" / "2486.jpg")
    save_image(folder / "trajectory" / "images" / "rtx" / "5.png")
    for i in range(6):
        save_image(
            folder / "planning" / "images" / "rtx_frames_success_42" / "62#episode_1570" / f"image_{i}.png"
        )
    # The published pixels are those of the original frames, of twice the size here.
    meta = {"original_dataset": "bridge", "original_width": 2 * WIDTH, "original_height": 2 * HEIGHT}
    box = {"x": 60.0, "y": 40.0, "width": 90.0, "height": 60.0}
    save_json(
        folder / "affordance" / "affordance.json",
        [{"id": 2486, "meta_data": meta, "instruction": "pick up the red thing.", "affordance": box}],
    )
    path = [[65.45, 45.0], [100.0, 62.42], [140.0, 90.0]]
    save_json(
        folder / "trajectory" / "trajectory.json",
        [{"id": "rtx/5.png", "meta_data": meta, "instruction": "reach for the red thing", "points": path}],
    )
    save_json(
        folder / "planning" / "jsons" / "future_prediction_task.json",
        [
            {
                "id": "/mnt/rtx_frames_success_42/62#episode_1570",
                "task": "Future_Prediction_Task",
                "selected_step": 3,
                "conversations": talk("<image 0-5> After <move the thing>, what is next?", "<put it down>"),
                "image": ["rtx_frames_success_42/62#episode_1570/image_0-5"],
            }
        ],
    )
    return folder


def roborefit(folder: Path) -> Path:
    root = folder / "final_dataset" / "train"
    save_image(root / "image" / "3.png")
    save_mask(root / "mask" / "3.png", 1)
    save_counts(root / "depth" / "3.png", 900)
    save_image(root / "depth_colormap" / "4.png")
    row = {
        "text": "The red thing. ",
        "bbox": [LEFT, TOP, RIGHT, BOTTOM],
        "rgb_path": "final_dataset\\train\\image\\3.png",
        "depth_path": "final_dataset\\train\\depth\\3.png",
        "mask_path": "final_dataset\\train\\mask\\3.png",
        "scene": 1,
    }
    colored = row | {"depth_path": "final_dataset\\train\\depth_colormap\\4.png"}
    save_json(folder / "roborefit_train.json", [row, colored])
    return folder


def mindcube(folder: Path) -> Path:
    names = [f"other_all_image/among/room/{side}_003.jpg" for side in ("front", "left")]
    for name in names:
        save_image(folder / "data" / name)
    save_json(
        folder / "data" / "raw" / "MindCube_train.jsonl",
        [
            {
                "id": "among_group_693_q0",
                "category": ["P-Q", "perspective"],
                "type": "object",
                "question": "Based on these two views, where is the box? A. Above B. Under C. Front D. Behind",
                "images": names,
                "gt_answer": "C",
                "meta_info": [],
            }
        ],
    )
    return folder


def vica(folder: Path) -> Path:
    save_video(folder / "videos" / "scannet" / "scene0000_00.mp4")
    rows = [
        {
            "id": "0",
            "conversations": talk("<image>\nHow many chairs are in this room?", "4"),
            "data_source": "scannet",
            "video": "scannet/scene0000_00.mp4",
        },
        {
            "conversations": talk("<image>\nThe length of the table's longest side in centimeters?", "120"),
            "video": "scannet/scene0000_00.mp4",
        },
    ]
    save_json(folder / "scannet" / "base" / "object_count.json", rows)
    save_json(
        folder / "scannet" / "complex" / "usage.json",
        [
            {
                "conversations": talk("<image>\nWhat is it for?", "Sitting."),
                "video": "scannet/scene0000_00.mp4",
            }
        ],
    )
    return folder


def vsi_590k(folder: Path) -> Path:
    save_video(folder / "scannet" / "scene.mp4")
    save_image(folder / "robotics" / "view.jpg")
    intro = "<image>\nThese are frames of a video.\n"
    save_json(
        folder / "vsi_590k.jsonl",
        [
            {
                "conversations": talk(
                    f"{intro}Which is nearest to the door?\nOptions:\nA. chair\nB. table\nC. sofa\n"
                    "Answer with the option's letter from the given choices directly.",
                    "B",
                ),
                "question_type": "relative_distance_object",
                "video": "scannet/scene.mp4",
            },
            {
                "conversations": talk("<image>\nHow far is the thing, in meters?", "1.4"),
                "question_type": "absolute_distance_object",
                "image": "robotics/view.jpg",
            },
        ],
    )
    return folder


def spar(folder: Path) -> Path:
    scene = folder / "spar" / "scannet" / "images" / "scene0261_00"
    for number in (1, 2, 3):
        save_image(scene / "image_color" / f"{number}.jpg")
        save_counts(scene / "image_depth" / f"{number}.png", size=(WIDTH, HEIGHT) if number < 3 else (60, 40))
    questions = folder / "spar" / "scannet" / "qa_jsonl" / "train"
    save_json(
        questions / "depth_prediction_oc" / "sentence" / "sentence_1.jsonl",
        [
            {
                "id": "scene0261_00_16",
                "conversations": talk("How deep is the towel (blue point)?", "It is about 1.5 meters."),
                "image": ["scene0261_00/image_color/1.jpg"],
                "type": "depth_prediction_oc",
                "depth": ["scene0261_00/image_depth/1.png"],
                "red_point": [[100, 800]],
                "blue_point": [[800, 200]],
            }
        ],
    )
    save_json(
        questions / "distance_infer_center_oo_mv" / "select" / "select_1.jsonl",
        [
            {
                "id": "x",
                "conversations": talk(
                    "Which is nearer to the box (red point)? A. cup (green) B. book (blue)", "A"
                ),
                "image": [f"scene0261_00/image_color/{n}.jpg" for n in (1, 2, 3)],
                "type": "distance_infer_center_oo_mv",
                "depth": [f"scene0261_00/image_depth/{n}.png" for n in (1, 2, 3)],
                "red_point": [[800, 800]],
                "blue_point": [[800, 200]],
                "green_point": [[100, 800]],
                "point_img_idx": [[2, 0, 1]],
            }
        ],
    )
    save_json(
        questions / "spatial_volume_infer" / "fill" / "fill_1.jsonl",
        [
            {
                "id": "y",
                "conversations": talk("How many of it fit?", "3"),
                "image": ["scene0261_00/image_color/2.jpg"],
                "type": "spatial_volume_infer",
                "depth": ["scene0261_00/image_depth/2.png"],
                "blue_bbox": [[250, 250, 625, 625]],
            }
        ],
    )
    return folder


ROBOVQA_TEXT = (
    "<task:planning:remaining5> current goal is: tidy up Q: immediate next step? A: <PRED>put the cup down</PRED> "
    "<task:success> Q: satisfied camera: view? A: <PRED:ANSWER:BINARY>yes</PRED:ANSWER:BINARY>"
)


def robovqa(folder: Path) -> Path:
    clip = sequence_example({"images": [encoded("JPEG")] * 5, "texts": [ROBOVQA_TEXT.encode()]})
    (folder / "train").mkdir(parents=True)
    write_tfrecords(folder / "train" / "train-00000-of-00001.tfrecord", [clip, clip])
    return folder


def robo2vlm(folder: Path) -> Path:
    rows = [
        {
            "id": "droid_1_q1",
            "question": "Is the gripper open?",
            "choices": "['Yes', 'No', 'Cannot be determined', 'Partly', 'Opening']",
            "correct_answer": 1,
            "image": {"bytes": encoded("JPEG"), "path": None},
        }
    ]
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return folder


def refspatial(folder: Path) -> Path:
    for kind in ("2D", "3D"):
        save_image(folder / kind / "image" / "a.jpg")
    disparity = np.where(mask(), 250, 30).astype(np.uint8)
    (folder / "2D" / "depth").mkdir(parents=True)
    Image.fromarray(np.repeat(disparity[..., None], 3, axis=2)).save(folder / "2D" / "depth" / "a.png")
    question = "Which is the red thing? (A) (0.407, 0.452) (B) (0.195, 0.681)"
    save_json(
        folder / "2D" / "choice_qa.json",
        [
            {
                "id": "q",
                "image": ["a.jpg"],
                "depth": ["a.png"],
                "conversations": talk(
                    f"<image>\n{question}",
                    "(A) (0.407, 0.452)",
                    "Please point out the red thing. Your answer should be formatted as a list of tuples, i.e. "
                    "[(x1, y1)], where each tuple contains the x and y coordinates between 0 and 1.",
                    "[(0.5, 0.4)]",
                ),
            }
        ],
    )
    save_json(
        folder / "3D" / "multi_view_qa.json",
        [
            {
                "id": "m",
                "image": ["a.jpg", "a.jpg"],
                "conversations": talk("<image>\n<image>\nHow many?", "Two."),
            }
        ],
    )
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "paco-lvis": paco,
    "robopoint": robopoint,
    "roboafford": roboafford,
    "sharerobot": sharerobot,
    "roborefit": roborefit,
    "mindcube": mindcube,
    "vica-322k": vica,
    "spar-7m": spar,
    "vsi-590k": vsi_590k,
    "robovqa": robovqa,
    "robo2vlm": robo2vlm,
    "refspatial": refspatial,
}
"""Source to the function that writes its layout into a folder and returns what to import."""
