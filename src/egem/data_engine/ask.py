"""Scene to records: which questions are asked about a view, and how they are stored."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from egem.core.errors import unknown_name
from egem.data_engine.skills import DEFAULT_SKILLS, SKILLS, Question, Skill
from egem.data_engine.skills.skill import applies
from egem.data_engine.view import View
from egem.media import check_depth, encode_depth, encode_png
from egem.records import IMAGE_MARK, DepthFile, ImageFile, Message, Record
from egem.scene import Scene

MAX_ROUNDS = 3
"""A skill is tried at most this often about one view."""


def ask(
    scene: Scene,
    rng: np.random.Generator,
    *,
    num_questions: int,
    skills: Sequence[str] | None = None,
    image: ImageFile | None = None,
) -> list[Record]:
    """Up to `num_questions` records about a scene, spread over the skills that apply.

    Every skill that applies is tried once, in random order, before any is tried again; none asks twice about
    the same thing. The records share one image, one depth map and the group `scene.id`.

    Args:
        scene: what to ask about.
        rng: the only source of chance: equal states give equal records.
        num_questions: fewer come back where the scene has not so many unambiguous things to ask.
        skills: names of the skills to use; `DEFAULT_SKILLS` if None.
        image: the scene's image as encoded already; PNG is made of it if None.

    Raises:
        ConfigError: a skill does not exist.
        RecordError: the scene's depth is implausible or does not fit its unit.
    """
    found = list(_questions(View(scene), rng, num_questions, chosen(skills)))
    if not found:
        return []
    image = image or ImageFile(data=encode_png(scene.image))
    depths: tuple[DepthFile | None, ...] = ()
    if scene.depth is not None:
        check_depth(scene.depth, scene.depth_kind, where=f"scene '{scene.id}'")
        data = encode_depth(scene.depth, scene.depth_unit_m)
        kind, origin = scene.depth_kind, scene.depth_origin
        depths = (DepthFile(data=data, unit_m=scene.depth_unit_m, kind=kind, origin=origin),)
    camera = () if scene.camera is None else (scene.camera.intrinsics,)
    return [
        Record(
            id=f"{scene.id}/{number:02d}",
            source=scene.source,
            category=skill.category,
            skill=skill.name,
            group=scene.id,
            images=(image,),
            depths=depths,
            intrinsics=camera,
            messages=(
                Message(role="user", content=f"{IMAGE_MARK}\n{question.text}"),
                Message(role="assistant", content=question.answer.text),
            ),
            answer=question.answer,
            meta=json.loads(json.dumps({**scene.meta, **question.meta})),
        )
        for number, (skill, question) in enumerate(found)
    ]


def chosen(names: Sequence[str] | None) -> list[Skill]:
    """The skills of these names; `DEFAULT_SKILLS` if None.

    Raises:
        ConfigError: a name is in no table; the nearest one is suggested.
    """
    for name in names or ():
        if name not in SKILLS:
            raise unknown_name("skill", name, SKILLS)
    return [SKILLS[name] for name in (DEFAULT_SKILLS if names is None else names)]


def _questions(
    view: View, rng: np.random.Generator, num: int, skills: Sequence[Skill]
) -> Iterator[tuple[Skill, Question]]:
    skills = [skill for skill in skills if applies(skill, view)]
    asked: set[tuple[str, ...]] = set()
    for _ in range(MAX_ROUNDS):
        # Weighted order without replacement: smallest exponential over weight first.
        keys = [rng.exponential() / skill.weight for skill in skills]
        before = len(asked)
        for index in np.argsort(keys):
            if len(asked) >= num:
                return
            skill = skills[int(index)]
            question = skill.ask(view, rng)
            if question is not None and (skill.name, *question.topic) not in asked:
                asked.add((skill.name, *question.topic))
                yield skill, question
        if len(asked) == before:
            return
