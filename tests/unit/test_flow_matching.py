import pytest
import torch

from egem.core.errors import ConfigError
from egem.models.action_flow import draw_chunks
from egem.models.flow_matching import draw, euler_times, shifted, velocity_error


def test_draws_depend_on_the_generator_alone_and_not_on_the_number_of_maps() -> None:
    together = draw((3, 2, 4, 4), dropout=0.5, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    for index in range(3):
        one = draw((1, 2, 4, 4), dropout=0.5, generator=generator)
        assert torch.equal(one.noise[0], together.noise[index])
        assert one.time[0] == together.time[index]
        assert one.drop[0] == together.drop[index]


def test_dropout_changes_neither_time_nor_noise() -> None:
    never = draw((8, 1, 2, 2), dropout=0.0, generator=torch.Generator().manual_seed(1))
    always = draw((8, 1, 2, 2), dropout=1.0, generator=torch.Generator().manual_seed(1))
    assert torch.equal(never.time, always.time)
    assert torch.equal(never.noise, always.noise)
    assert not never.drop.any()
    assert always.drop.all()


def test_nothing_waits_for_what_is_drawn_to_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    send, without_waiting = torch.Tensor.to, []

    def noted(tensor: torch.Tensor, device: str, *, non_blocking: bool = False) -> torch.Tensor:
        without_waiting.append(non_blocking)
        return send(tensor, device, non_blocking=non_blocking)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    draw((2, 1, 2, 2), dropout=0.5, generator=None, device="meta")
    draw_chunks((2, 4, 3), distribution="beta", generator=None, device="meta")
    assert without_waiting == [True] * 5


def test_time_is_uniform_and_never_zero() -> None:
    time = draw((4000, 1, 1, 1), dropout=0.1, generator=torch.Generator().manual_seed(0)).time
    assert 0 < time.min() < 0.01
    assert 0.99 < time.max() <= 1
    assert abs(time.mean() - 0.5) < 0.02
    assert abs(time.std() - 12**-0.5) < 0.01


def test_a_shift_moves_the_same_draws_towards_noise() -> None:
    plain, moved = (
        draw((500, 1, 1, 1), dropout=0.1, generator=torch.Generator().manual_seed(0), time_shift=shift)
        for shift in (1.0, 8.0)
    )
    assert torch.equal(moved.time, shifted(plain.time, 8.0))
    assert torch.equal(moved.noise, plain.noise)
    assert (moved.time >= plain.time).all()
    assert moved.time.max() <= 1
    assert shifted(0.5, 8.0) == pytest.approx(8 / 9)
    assert euler_times(2, 8.0) == pytest.approx([1.0, 8 / 9])


def test_share_of_dropped_conditions() -> None:
    drop = draw((4000, 1, 1, 1), dropout=0.1, generator=torch.Generator().manual_seed(0)).drop
    assert abs(drop.float().mean() - 0.1) < 0.02


def test_euler_times() -> None:
    assert euler_times(1) == [1.0]
    assert euler_times(4) == [1.0, 0.75, 0.5, 0.25]
    with pytest.raises(ConfigError, match=r"^0 sampling steps; at least one is needed\.$"):
        euler_times(0)


def test_values_of_weight_zero_cannot_change_the_loss() -> None:
    velocity, data, noise = (torch.randn(1, 2, 3, 3) for _ in range(3))
    weight = torch.ones(1, 2, 3, 3)
    weight[0, :, 1] = 0
    before = velocity_error(velocity, data, noise, weight)
    data[0, :, 1] = 1e6
    assert torch.equal(velocity_error(velocity, data, noise, weight), before)


def test_error_is_float32_for_bfloat16_predictions() -> None:
    maps = torch.randn(1, 2, 3, 3)
    assert velocity_error(maps.bfloat16(), maps, maps, torch.ones(1, 1, 3, 3)).dtype == torch.float32
