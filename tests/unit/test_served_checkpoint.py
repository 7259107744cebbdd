"""`egem serve CHECKPOINT`: the same actions over the wire as without it, and what the checkpoint says and draws."""

import numpy as np
import pytest
from egem_client import RemotePolicy
from egem_client.errors import PolicyFailedError
from tests.tiny_vla import ACTION_DIM, HORIZON, STATE_DIM, build_micro_vla

from egem.cli import main
from egem.data.normalization import DimensionStatistics, Normalization
from egem.episodes import ActionSpace
from egem.models.vla_policy import policy_files
from egem.policy import Explains, Observation, PolicyInfo
from egem.policy_messages import to_request
from egem.recipes.serve import ServedCheckpoint
from policies import serving

INFO = PolicyInfo(
    name="micro",
    cameras=("front", "wrist"),
    state_dim=STATE_DIM,
    action_space=ActionSpace(control="joint_position", dim=ACTION_DIM),
    horizon=HORIZON,
)


def test_a_checkpoint_served(tmp_path):
    model, rng = build_micro_vla(), np.random.default_rng(0)
    normalization = Normalization(
        method="mean_std",
        state=DimensionStatistics.of(rng.normal(size=(50, STATE_DIM))),
        action=DimensionStatistics.of(rng.normal(size=(50, ACTION_DIM))),
    )
    model.policy_files = policy_files(INFO, normalization)
    model.save_pretrained(tmp_path / "model")
    policy = ServedCheckpoint.load(tmp_path / "model", device="cpu")
    assert isinstance(policy, Explains)
    seen = Observation(
        images={name: rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for name in INFO.cameras},
        state=rng.normal(size=STATE_DIM).astype(np.float32),
        instruction="lift the cup",
    )
    wanted = policy.act([seen], seed=5)[0]
    with serving(policy, warmup_side=32, max_batch=1) as server, RemotePolicy(server.url) as client:
        asked = to_request(seen, INFO, seed=5, question="What is left?", want_depth=True)
        reply = client.infer(asked)
        # Damaged weights are the server's failure, never a bad observation, and no client gets such a chunk.
        for parameter in policy.model.action_expert.parameters():
            parameter.data.fill_(float("nan"))
        with pytest.raises(PolicyFailedError):
            client.infer(asked)
    np.testing.assert_allclose(reply["actions"], wanted, rtol=1e-5, atol=1e-6)
    assert reply["egem/answer"] == policy.explain(seen, "What is left?")
    for camera in INFO.cameras:
        assert reply[f"egem/depth/{camera}"].ndim == 2
        np.testing.assert_array_equal(reply[f"egem/depth/{camera}"], policy.draw_depth(seen)[camera].values)


def test_wrong_options_end_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("EGEM_TOKEN", raising=False)
    for words, reason in (
        (["--host", "0.0.0.0"], "a token is needed"),
        (["--rename", "image"], "write THEIRS=OURS"),
        ([], "absent holds no action_expert"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", str(tmp_path / "absent"), *words])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
