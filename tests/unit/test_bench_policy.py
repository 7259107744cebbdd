"""What `egem bench policy` times and plans, at the tiny preset's sizes with few pixels."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from egem.benchmarking.policy import BenchPolicyConfig, _model, _sample, bench_policy, plan_policy
from egem.cli import main
from egem.core.errors import ConfigError
from egem.models.action_expert import Condition
from egem.models.action_sampler import ActionSampler

SMALL = BenchPolicyConfig(
    views=2, image_size=32, prompt_tokens=5, num_steps=6, chunks=3, warm_up=1, compiled=False, device="cpu"
)


@pytest.mark.parametrize("conditioning", ["keys_values", "hidden_states"])
def test_ways_agree_and_the_plan_counts_what_is_kept(conditioning: str) -> None:
    config = replace(SMALL, conditioning=conditioning, dtype="float32")  # pyright: ignore[reportArgumentType]
    result = bench_policy(config)
    assert result["ways"]["recomputed"]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert result["ways"]["recomputed"]["relative_mse"] < 1e-9
    assert result["recomputed_over_reused"] > 1.5
    plan = plan_policy(config)
    assert plan["parameters"] == result["parameters"]
    assert plan["prompt_tokens"] == result["prompt_tokens"] == 2 * (2 * 2 + 2) + 5
    model = _model(config).eval()
    prefix: Condition = model.prefix([_sample(model, config, 0)])
    kept = sum(t.numel() * t.element_size() for pair in prefix.layers for t in pair)
    assert plan["prefix_mb"] == pytest.approx(kept / 1e6)
    assert plan["weights_gb"] == pytest.approx(
        4 * sum(p.numel() for part in (model.backbone, model.action_expert) for p in part.parameters()) / 1e9
    )


def test_the_plan_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "policy", "--plan", "tiny", "--views", "3", "--out", str(tmp_path / "plan.json")])
    assert "to act:" in capsys.readouterr().out
    assert json.loads((tmp_path / "plan.json").read_text())["config"]["views"] == 3


def test_what_cannot_be_timed_is_named() -> None:
    with pytest.raises(ConfigError, match="multiples of 16"):
        bench_policy(replace(SMALL, image_size=40))
    with pytest.raises(ConfigError, match="at least 1"):
        replace(SMALL, num_steps=0)
    with pytest.raises(ConfigError, match="need a GPU"):
        ActionSampler(_model(SMALL), cuda_graph=True)
