"""PACO-LVIS (facebookresearch/paco): objects, their parts and colours, with boxes and masks, on COCO 2017 images.

    annotations/paco_lvis_v1_{train,val,test}.json: one object with images, annotations (bbox x, y, width, height in
    pixels; segmentation; obj_ann_id), categories, part_categories, attributes, attr_type_to_attr_idxs
    train2017/, val2017/: the images
Questions are made here, for things that their name picks out alone: the category occurs once in an image that is
annotated exhaustively for it, or one of its colours does. A part is asked for where its object has it once. Each
thing is asked for by box or by point, drawn from the seed; at most `--num-questions` an image.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from egem.core.errors import RecordError
from egem.data_engine.formats.coco_rle import decode_segmentation
from egem.data_engine.formats.json_rows import read_json_object
from egem.data_engine.sources import fields
from egem.data_engine.sources.conversation import ask
from egem.data_engine.sources.coordinates import box_from_pixels, written
from egem.data_engine.sources.layout import find_files, folder_of
from egem.data_engine.sources.masks import interior_point
from egem.data_engine.sources.pictures import Pictures, region_file
from egem.data_engine.sources.source import ImportOptions, Place, Row, file_rows
from egem.records import Answer, Record

NAME = "paco-lvis"
LICENCE = "not stated with the annotations (COCO's images keep their photographers' licences)"
PATTERNS = ("paco_lvis_*.json", "annotations/paco_lvis_*.json", "*/paco_lvis_*.json")

_BOX = "Give the box of {name} as [left, top, right, bottom], integers 0 to 1000."
_POINT = "Point to {name}. Answer with [x, y], integers 0 to 1000."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """Something with a name that fits nothing else in its image."""

    name: str
    kind: str
    """`object` or `part`."""
    annotation: dict[str, Any]


def rows(path: Path, options: ImportOptions) -> Iterator[Row]:
    """One row for each image that has something to ask for.

    Raises:
        ConfigError: the folder holds no `paco_lvis_*.json`.
    """
    files = find_files(path, PATTERNS, source=NAME, split=options.split)
    root = folder_of(path)
    pictures = Pictures([options.media or root, root.parent, root / "coco"], options.images)
    for file in files:
        tables = _Tables()
        load = partial(_records, names=tables.names, pictures=pictures, options=options)
        yield from file_rows([file], tables.images, load, root=root, source=NAME, licence=LICENCE)


@dataclass(kw_only=True, slots=True)
class _Names:
    """What an annotation file calls things."""

    categories: dict[Any, str] = field(default_factory=dict)
    colors: dict[Any, str] = field(default_factory=dict)


class _Tables:
    """One annotation file; it is read when its first image is asked for."""

    def __init__(self) -> None:
        self.names = _Names()

    def images(self, file: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Images with their annotations, in the file's order.

        Raises:
            RecordError: not JSON, or not PACO's.
        """
        content = read_json_object(file)
        missing = [
            key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)
        ]
        if missing:
            raise fields.unknown_schema(content, f"lists {', '.join(missing)}", str(file))
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        try:
            for annotation in content["annotations"]:
                by_image[annotation["image_id"]].append(annotation)
            self.names.categories = {c["id"]: _words(c["name"]) for c in content["categories"]}
            color_ids = set(content.get("attr_type_to_attr_idxs", {}).get("color", ()))
            attributes = content.get("attributes", ())
            self.names.colors = {a["id"]: _words(a["name"]) for a in attributes if a["id"] in color_ids}
        except (KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{file}: not PACO's tables ({error!r}); see the dataset's documentation."
            ) from None
        images = (image for image in content["images"] if _known(image) and image["id"] in by_image)
        return ((image, by_image[image["id"]]) for image in images)


def _records(
    found: tuple[dict[str, Any], list[dict[str, Any]]],
    place: Place,
    names: _Names,
    pictures: Pictures,
    options: ImportOptions,
) -> list[Record]:
    image, annotations = found
    where = f"{place.file}, image {image['id']}"
    width, height = fields.number(image, "width", where), fields.number(image, "height", where)
    targets = _targets(image, annotations, names)
    picture = pictures.read(fields.text(image, "file_name", where), where)
    if (picture.width, picture.height) != (width, height):
        raise RecordError(
            f"{where}: its file has {picture.width} x {picture.height} pixels, the annotation {width:g} x {height:g}."
        )
    rng = np.random.default_rng([options.seed, int(image["id"])])
    chosen = sorted(rng.permutation(len(targets))[: options.num_questions].tolist())
    records = []
    for index in chosen:
        target = targets[index]
        form = "box" if rng.random() < 0.5 else "point"
        subject = f"{where}, annotation {target.annotation.get('id')}"
        answer = _answer(target.annotation, form, int(width), int(height), subject)
        question = (_BOX if form == "box" else _POINT).format(name=target.name)
        records.append(
            Record(
                id=f"{place.id}/{target.annotation['id']}",
                source=NAME,
                category="grounding",
                skill=f"{form}_of_{target.kind}",
                group=place.id,
                images=(picture.file,),
                messages=ask(question, answer.text, 1),
                answer=answer,
                meta=place.meta(
                    image=image["file_name"],
                    image_licence=image.get("license"),
                    annotation=target.annotation["id"],
                    bbox=target.annotation["bbox"],
                ),
            )
        )
    return records


def _targets(image: dict[str, Any], annotations: Sequence[dict[str, Any]], names: _Names) -> list[_Target]:
    open_ended = set(image.get("not_exhaustive_category_ids", ()))
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    parts: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        is_object = annotation.get("obj_ann_id", annotation["id"]) == annotation["id"]
        if is_object:
            objects[annotation["category_id"]].append(annotation)
        else:
            parts[annotation["obj_ann_id"]].append(annotation)
    targets = []
    for category, same in objects.items():
        if category in open_ended or category not in names.categories:
            continue
        for annotation in same:
            name = _name(annotation, same, names)
            if name is None:
                continue
            targets.append(_Target(name=f"the {name}", kind="object", annotation=annotation))
            targets.extend(_part_targets(name, parts[annotation["id"]], names))
    return targets


def _name(annotation: dict[str, Any], same: Sequence[dict[str, Any]], names: _Names) -> str | None:
    """The category, with the colour that none of the others has where there are others."""
    category = names.categories[annotation["category_id"]]
    if len(same) == 1:
        return category
    if any(other.get("unknown_color", 0) for other in same):
        return None
    others = {i for other in same if other is not annotation for i in other.get("attribute_ids", ())}
    own = [i for i in annotation.get("attribute_ids", ()) if i in names.colors and i not in others]
    return f"{names.colors[own[0]]} {category}" if own else None


def _part_targets(name: str, parts: Sequence[dict[str, Any]], names: _Names) -> list[_Target]:
    count: dict[Any, int] = defaultdict(int)
    for part in parts:
        count[part["category_id"]] += 1
    return [
        _Target(
            name=f"the {names.categories[part['category_id']].rsplit(':', 1)[1]} of the {name}",
            kind="part",
            annotation=part,
        )
        for part in parts
        if count[part["category_id"]] == 1 and ":" in names.categories.get(part["category_id"], "")
    ]


def _answer(annotation: dict[str, Any], form: str, width: int, height: int, where: str) -> Answer:
    box = box_from_pixels(fields.numbers(annotation, "bbox", 4, where), "size", width, height, where)
    if form == "box":
        return Answer(kind="box", text=written(box), box=box)
    mask = decode_segmentation(annotation.get("segmentation"), height, width, where)
    point = interior_point(mask, where)
    return Answer(kind="point", text=written(point), points=(point,), region=region_file(mask))


def _words(name: str) -> str:
    """`water_bottle` and `trousers:back_pocket` as they are said; what brackets explain is left out."""
    return ":".join(part.split("_(")[0].replace("_", " ").strip() for part in name.split(":"))


def _known(image: Any) -> bool:
    return isinstance(image, dict) and isinstance(image.get("id"), int)
