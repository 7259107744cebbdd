"""How long the longest edge of a thing's box is."""

import numpy as np

from egem.data_engine.room_questions.family import Candidate, Facts, Family


def find(facts: Facts, rng: np.random.Generator) -> list[Candidate]:
    """A candidate for each thing that has a name of its own."""
    del rng
    found = []
    for thing in facts.named():
        longest = 100 * float(thing.lengths.max())
        found.append(
            Candidate(
                objects=(thing,),
                slots={"name": thing.name},
                answer=f"{longest:.0f}" if longest >= 10 else f"{longest:.1f}",
                number=round(longest, 2),
                unit="cm",
                numbers={"lengths_m": thing.lengths.tolist()},
            )
        )
    return found


FAMILY = Family(
    name="object_size_estimation",
    find=find,
    published="What is the length of the longest dimension (length, width, or height) of the {name}, measured in "
    "centimeters?",
    phrasings=(
        "How many centimetres does the {name} measure along its longest side?",
        "The {name}: what is the largest of its length, width and height, in centimetres?",
        "Put the {name} into the smallest box that fits. How long is that box's longest edge, in centimetres?",
        "Along which side is the {name} longest, and how long is that side in centimetres? Give the number.",
    ),
)
