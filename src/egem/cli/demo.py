"""`egem demo`: the whole story in minutes."""

from egem.cli.options import parse


def demo(arguments: list[str]) -> None:
    """Run it and print the numbers and where the page is."""
    from egem.recipes.demo import DemoConfig
    from egem.recipes.demo import demo as run

    result = run(parse(DemoConfig, "demo", arguments))
    print(
        f"\n{result.steps} steps, {result.minutes:.1f} minutes in all\n"
        f"language loss in the joint stage: {result.first_language_loss:.3f} -> {result.last_language_loss:.3f}\n"
        f"skills above their blind baseline: {len(result.skills_above_blind)} "
        f"({', '.join(result.skills_above_blind)})\n"
        f"mean score {result.mean_score:.3f}, blind {result.blind_score:.3f}\n"
        f"held-out depth after alignment: delta1 {result.depth_delta1:.3f}, AbsRel {result.depth_abs_rel:.3f}\n"
        f"before training: {len(result.start_skills_above_blind)} skills above, mean score "
        f"{result.start_mean_score:.3f}; delta1 {result.start_delta1:.3f}, AbsRel {result.start_abs_rel:.3f}\n"
        f"mean training depth map, aligned the same way: delta1 {result.mean_map_delta1:.3f}, "
        f"AbsRel {result.mean_map_abs_rel:.3f}  (AbsRel ratio "
        f"{result.depth_abs_rel / result.mean_map_abs_rel:.2f})\n"
        f"peak memory: {result.peak_memory_gb:.1f} GB, largest helper {result.helper_memory_gb:.1f} GB\n"
        f"report: {result.report}"
    )
