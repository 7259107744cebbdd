"""Questions about a 3D scene, of VSI-Bench's kinds: the table of families."""

from egem.data_engine.room_questions import (
    absolute_distance,
    appearance_order,
    object_count,
    object_size,
    relative_direction,
    relative_distance,
    room_size,
    route_plan,
)
from egem.data_engine.room_questions.family import RULES, Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        object_count.FAMILY,
        absolute_distance.FAMILY,
        relative_distance.FAMILY,
        relative_direction.EASY_FAMILY,
        relative_direction.MEDIUM_FAMILY,
        relative_direction.HARD_FAMILY,
        object_size.FAMILY,
        room_size.FAMILY,
        route_plan.FAMILY,
        appearance_order.FAMILY,
    )
}
"""VSI-Bench's question type -> how it is asked."""

__all__ = ["FAMILIES", "RULES", "Family"]
