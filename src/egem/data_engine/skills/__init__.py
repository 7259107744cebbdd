"""The table of skills. A new one is a function in a file of its own and a line here.

Weights make the counts of skills roughly equal over tabletop views, where some are refused far more often.
"""

from egem.data_engine.skills import (
    affordance,
    containment,
    counting,
    describing,
    distance,
    free_space,
    planning,
    point_depth,
    pointing,
    relative_depth,
    size,
    trajectory,
    viewpoint,
)
from egem.data_engine.skills.skill import Need, Question, Skill

_GROUNDING = (
    Skill(
        name="point_at_object",
        category="grounding",
        needs=("masks",),
        ask=pointing.point_at_object,
        weight=0.6,
    ),
    Skill(
        name="point_at_extreme",
        category="grounding",
        needs=("masks", "boxes"),
        ask=pointing.point_at_extreme,
        weight=6.0,
    ),
    Skill(
        name="box_of_object", category="grounding", needs=("masks",), ask=pointing.box_of_object, weight=0.6
    ),
    Skill(
        name="object_at_point",
        category="grounding",
        needs=("masks",),
        ask=pointing.object_at_point,
        weight=0.8,
    ),
    Skill(
        name="free_spot",
        category="grounding",
        needs=("metric", "boxes", "support"),
        ask=free_space.free_spot,
    ),
    Skill(
        name="graspable_part",
        category="grounding",
        needs=("metric", "boxes"),
        ask=affordance.graspable_part,
        weight=0.6,
    ),
)
_SPATIAL = (
    Skill(
        name="nearer_point", category="spatial", needs=("depth",), ask=point_depth.nearer_point, weight=0.7
    ),
    Skill(
        name="extreme_point", category="spatial", needs=("depth",), ask=point_depth.extreme_point, weight=5.0
    ),
    Skill(
        name="order_points", category="spatial", needs=("depth",), ask=point_depth.order_points, weight=4.0
    ),
    Skill(name="point_depth", category="spatial", needs=("metric",), ask=point_depth.point_depth, weight=1.0),
    Skill(
        name="depth_difference",
        category="spatial",
        needs=("metric",),
        ask=point_depth.depth_difference,
        weight=1.0,
    ),
    Skill(
        name="points_apart",
        category="spatial",
        needs=("metric", "camera"),
        ask=point_depth.points_apart,
        weight=1.0,
    ),
    Skill(
        name="nearer_object", category="spatial", needs=("depth", "masks"), ask=relative_depth.nearer_object
    ),
    Skill(
        name="extreme_object",
        category="spatial",
        needs=("depth", "masks"),
        ask=relative_depth.extreme_object,
        weight=1.5,
    ),
    Skill(
        name="camera_distance", category="spatial", needs=("boxes",), ask=distance.camera_distance, weight=0.6
    ),
    Skill(name="object_distance", category="spatial", needs=("boxes",), ask=distance.object_distance),
    Skill(
        name="nearest_neighbour",
        category="spatial",
        needs=("boxes",),
        ask=distance.nearest_neighbour,
        weight=1.2,
    ),
    Skill(name="camera_side", category="spatial", needs=("boxes",), ask=viewpoint.camera_side, weight=1.1),
    Skill(name="camera_order", category="spatial", needs=("boxes",), ask=viewpoint.camera_order, weight=1.1),
    Skill(name="own_view", category="spatial", needs=("boxes",), ask=viewpoint.own_view, weight=3.0),
    Skill(name="facing", category="spatial", needs=("boxes",), ask=viewpoint.facing, weight=1.4),
    Skill(name="inside", category="spatial", needs=("boxes",), ask=containment.inside, weight=25.0),
    Skill(name="on", category="spatial", needs=("boxes",), ask=containment.on, weight=6.0),
    Skill(name="above", category="spatial", needs=("boxes",), ask=containment.above, weight=5.0),
    Skill(
        name="resting_place", category="spatial", needs=("boxes",), ask=containment.resting_place, weight=5.0
    ),
    Skill(name="compared_size", category="spatial", needs=("boxes",), ask=size.compared_size, weight=7.0),
    Skill(
        name="count_color", category="spatial", needs=("masks", "boxes"), ask=counting.count_color, weight=4.0
    ),
    Skill(
        name="count_shape", category="spatial", needs=("masks", "boxes"), ask=counting.count_shape, weight=5.0
    ),
    Skill(name="count_all", category="spatial", needs=("masks", "boxes"), ask=counting.count_all),
)
_PLANNING = (
    Skill(
        name="reachable", category="planning", needs=("boxes", "robot"), ask=planning.reachable, weight=6.0
    ),
    Skill(name="goal_done", category="planning", needs=("boxes",), ask=planning.goal_done, weight=5.0),
    Skill(name="next_step", category="planning", needs=("task",), ask=planning.next_step, weight=1.1),
    Skill(
        name="gripper_path",
        category="planning",
        needs=("camera", "task"),
        ask=trajectory.gripper_path,
        weight=3.0,
    ),
)

_DESCRIBING = (
    Skill(name="caption", category="grounding", needs=("masks",), ask=describing.caption, on_request=True),
    Skill(
        name="layout",
        category="grounding",
        needs=("masks", "metric", "camera", "support"),
        ask=describing.layout,
        on_request=True,
    ),
    Skill(name="is_there", category="grounding", needs=("masks",), ask=describing.is_there, on_request=True),
    Skill(name="color_of", category="grounding", needs=("masks",), ask=describing.color_of, on_request=True),
    Skill(name="shape_of", category="grounding", needs=("masks",), ask=describing.shape_of, on_request=True),
    Skill(
        name="task_subject",
        category="grounding",
        needs=("masks", "task"),
        ask=planning.task_subject,
        on_request=True,
    ),
)

SKILLS: dict[str, Skill] = {skill.name: skill for skill in (*_GROUNDING, *_SPATIAL, *_PLANNING, *_DESCRIBING)}
"""Name to skill."""

DEFAULT_SKILLS: tuple[str, ...] = tuple(name for name, skill in SKILLS.items() if not skill.on_request)
"""What is asked where no skill is named."""

__all__ = ["DEFAULT_SKILLS", "SKILLS", "Need", "Question", "Skill"]
