"""How many scenes of the embedded world are drawn in a second, with colour, metric depth and instance masks.

    python benchmarks/render.py [--size 128] [--scenes 200] [--processes 1 2]

Prints JSON. A scene is one seed; `views_per_s` counts its pictures. `scenes_per_cpu_s` is what one undisturbed
core would do: on a busy machine it is the number to compare. The shares say where the time goes: drawing lots
(things, grasps, cameras, room), and rasterising.
"""

import argparse
import json
import multiprocessing
import os
import platform
import time

from egem.core.machine import commit
from egem.worlds.tabletop import CAMERAS, TabletopWorld, find_renderer


def work(
    size: int,
    first: int,
    num: int,
    cameras: tuple[str, ...],
    barrier: object,
    results: "multiprocessing.Queue",
) -> None:
    """Draw scenes `first` ... and report (start, end, seconds spent in reset, seconds of processor time)."""
    with TabletopWorld((size, size)) as world:
        world.reset(0)
        world.view(cameras[0])
        barrier.wait()
        start, resetting, cpu = time.perf_counter(), 0.0, time.process_time()
        for seed in range(first, first + num):
            before = time.perf_counter()
            world.reset(seed)
            resetting += time.perf_counter() - before
            for camera in cameras:
                world.view(camera)
        results.put((start, time.perf_counter(), resetting, time.process_time() - cpu))


def measure(size: int, num: int, processes: int, cameras: tuple[str, ...]) -> dict[str, float]:
    """Scenes per second of several processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    share = num // processes
    children = [
        context.Process(target=work, args=(size, i * share, share, cameras, barrier, results))
        for i in range(processes)
    ]
    for child in children:
        child.start()
    times = [results.get() for _ in children]
    for child in children:
        child.join()
    wall = max(end for _, end, _, _ in times) - min(start for start, _, _, _ in times)
    busy = sum(end - start for start, end, _, _ in times)
    reset = sum(reset for _, _, reset, _ in times) / busy
    rate = processes * share / wall
    return {
        "scenes_per_s": round(rate, 1),
        "scenes_per_cpu_s": round(processes * share / sum(cpu for _, _, _, cpu in times), 1),
        "views_per_s": round(rate * len(cameras), 1),
        "share_reset": round(reset, 2),
        "share_drawing": round(1 - reset, 2),
    }


def opengl_name() -> str:
    """What OpenGL calls its renderer here."""
    from mujoco import gl_context

    context = gl_context.GLContext(16, 16)
    context.make_current()
    from OpenGL import GL

    name = GL.glGetString(GL.GL_RENDERER).decode()
    context.free()
    return name


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    chosen = find_renderer()
    report: dict[str, object] = {
        "size": options.size,
        "scenes": options.scenes,
        "renderer": f"{chosen}: {opengl_name()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg()[0],
        "commit": commit(),
    }
    for processes in options.processes:
        for cameras in (CAMERAS[:1], CAMERAS):
            key = f"{processes}_processes_{len(cameras)}_views"
            report[key] = measure(options.size, options.scenes, processes, cameras)
    two = report.get("2_processes_1_views")
    if isinstance(two, dict) and two["scenes_per_s"] < 20:
        largest = "drawing lots" if two["share_reset"] > 0.5 else "the OpenGL renderer"
        starved = 2 * two["scenes_per_cpu_s"] >= 20
        report["bound_by"] = "other processes on this machine" if starved else largest
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
