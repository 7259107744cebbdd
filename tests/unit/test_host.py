import platform

import pytest
import torch

from egem.core.errors import ConfigError
from egem.training.host import device_of, keep_freed_memory


def test_freed_memory_is_kept_where_the_c_library_is_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_devices():
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="device 'gpu' cannot be used here"):
        device_of("gpu")
