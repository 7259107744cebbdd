import platform

import pytest
import torch

from egem.core.errors import ConfigError
from egem.device import compute_dtype, device_of
from egem.training.host import keep_freed_memory


def test_freed_memory_is_kept_where_the_c_library_is_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_devices():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used here"):
        device_of("gpu")


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_type_follows_the_processor(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert compute_dtype("auto", torch.device("cpu")) is expected


def test_named_types_are_taken_as_they_are():
    assert compute_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16
    assert compute_dtype("float32", torch.device("cpu")) is torch.float32
