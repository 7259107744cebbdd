"""`python -m egem_simulators libero|simpler`: a simulator that answers egem on its standard pipes.

With `--check` it only imports what it needs and says the versions.
"""

import argparse
import sys

from egem_simulators.channel import (
    ConfigProblem,
    answer_all,
    end_with_parent,
    methods_of,
    private_pipes,
)


def main() -> None:
    """Answer until egem hangs up."""
    parser = argparse.ArgumentParser(prog="python -m egem_simulators", description=__doc__)
    parser.add_argument("simulator", choices=("libero", "simpler"))
    parser.add_argument("--assets", default="", help="folder with the simulator's meshes and textures")
    parser.add_argument("--height", type=int, default=256, help="of pictures, in pixels")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--check", action="store_true", help="say what is installed, and end")
    options = parser.parse_args()
    end_with_parent()
    if options.simulator == "libero":
        from egem_simulators import libero as module
    else:
        from egem_simulators import simpler as module
    if options.check:
        print(module.check())  # noqa: T201
        return
    questions, answers = private_pipes()
    try:
        simulator = module.open_simulator(options.assets, (options.height, options.width))
    except ConfigProblem as problem:
        message = str(problem)

        def refuse(**_: object) -> None:
            raise ConfigProblem(message)

        answer_all(questions, answers, {"describe": refuse})
        sys.exit(2)
    answer_all(questions, answers, methods_of(simulator))


if __name__ == "__main__":
    main()
