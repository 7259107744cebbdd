import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tests import tiny
from tests.training_runs import assert_close, micro_config, numbers, three_stages
from transformers import Qwen3VLForConditionalGeneration

from egem.core.errors import ConfigError
from egem.models.gem import GEM
from egem.models.lora import adapters_merged, add_adapters, is_adapter
from egem.training.loop import train
from egem.training.optimizer import freeze
from egem.training.probes import Probe
from egem.training.signals import Stopped


def with_adapters(*modules: str) -> GEM:
    torch.set_num_threads(1)
    model = tiny.build_micro().eval()
    add_adapters(model, modules, rank=4, alpha=8.0, seed=1)
    return model


def losses(model: GEM) -> torch.Tensor:
    found = model.eval()(tiny.random_batch(2), generator=torch.Generator().manual_seed(0))
    return torch.stack([found.language_sum, found.depth_sum]).detach()


def stir(model: GEM) -> None:
    """Adapters start as nothing: B is 0."""
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data.normal_(std=0.1, generator=generator)


def test_adapters_start_as_nothing_and_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = with_adapters("backbone", "depth_head")
    assert torch.equal(torch.rand(1), expected)
    torch.testing.assert_close(losses(model), losses(tiny.build_micro()))


def test_only_adapters_learn_in_their_modules() -> None:
    model = with_adapters("backbone")
    stage = three_stages()[-1]
    report = freeze(model, stage)
    trained = set(report.parameters)
    assert all(is_adapter(name) for name in trained if name.startswith("backbone."))
    assert any("self_attn.q_proj.lora_A" in name for name in trained)
    assert any("visual.blocks.0.attn.qkv.lora_B" in name for name in trained)
    assert any(name.startswith("depth_head.sana") for name in trained)
    assert any(name.startswith("connector") for name in trained)
    # The first stage leaves the backbone alone altogether.
    assert all(name.startswith("connector.") for name in freeze(model, three_stages()[0]).parameters)


def test_a_saved_model_is_a_plain_one_with_the_adapters_multiplied_out(tmp_path) -> None:
    model = with_adapters("backbone", "depth_head")
    stir(model)
    expected = losses(model)
    assert (expected - losses(tiny.build_micro())).abs().min() > 1e-3
    layer = model.backbone.qwen.model.language_model.layers[0].self_attn.q_proj
    model.save_pretrained(tmp_path / "saved")
    assert model.backbone.qwen.model.language_model.layers[0].self_attn.q_proj is layer
    torch.testing.assert_close(losses(model), expected, rtol=0, atol=0)

    plain = GEM.from_pretrained(tmp_path / "saved")
    assert not any(is_adapter(name) for name, _ in plain.named_parameters())
    torch.testing.assert_close(losses(plain), expected, rtol=1e-5, atol=1e-5)
    names = set(load_file(tmp_path / "saved" / "backbone" / "model.safetensors"))
    untouched = tiny.write_checkpoint(tmp_path / "untouched")
    assert names == set(load_file(untouched / "backbone" / "model.safetensors"))
    Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "saved" / "backbone")


def test_merged_weights_by_hand() -> None:
    model = with_adapters("backbone")
    stir(model)
    name = "backbone.qwen.model.language_model.layers.1.mlp.up_proj"
    layer = model.get_submodule(name)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # pyright: ignore
    expected = layer.base_layer.weight + 8.0 / 4 * b @ a  # pyright: ignore
    with adapters_merged(model):
        torch.testing.assert_close(model.get_parameter(f"{name}.weight"), expected)


@pytest.mark.parametrize("options", [{"lora_rank": 4}, {"optimizer": "adamw8bit"}], ids=["lora", "8bit"])
def test_a_run_resumes_exactly_and_ends_in_a_plain_model(tmp_path, options) -> None:
    """From stored bfloat16, which stays beside adapters; also with 8-bit states, of other kinds than AdamW's."""
    start = tiny.write_checkpoint(tmp_path / "start")
    GEM.from_pretrained(start, dtype=torch.bfloat16).save_pretrained(tmp_path / "checkpoint")
    stages = three_stages(steps=(1, 1, 3))[1:]
    config = micro_config(
        tmp_path, stages=stages, dtype="bfloat16", lora_modules=("backbone", "depth_head"), **options
    )
    dtypes: dict[str, torch.dtype] = {}

    def look(model, preparer, step, place):
        dtypes.update({name: p.dtype for name, p in model.named_parameters()})
        return {}

    train(config, probes=[Probe(name="look", every=9, run=look)])
    again = replace(config, run=tmp_path / "again")

    def stop(model, preparer, step, place):
        if step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    with pytest.raises(Stopped):
        train(again, probes=[Probe(name="signal", every=1, run=stop)])
    train(again, resume=True)
    assert_close(numbers(again.run), numbers(config.run), rel=1e-12)
    first, second = (GEM.from_pretrained(run / "model").state_dict() for run in (config.run, again.run))
    assert not any(is_adapter(name) for name in first)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    for name, dtype in [*dtypes.items(), *((name, weight.dtype) for name, weight in first.items())]:
        kept = "lora_rank" in options and not is_adapter(name) and not name.startswith("connector")
        assert dtype == (torch.bfloat16 if kept else torch.float32), name


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="only backbone and depth_head"):
        add_adapters(tiny.build_micro(), ("connector",), rank=4, alpha=8.0, seed=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'egem\\[lora\\]'"):
        add_adapters(tiny.build_micro(), ("backbone",), rank=4, alpha=8.0, seed=1)
