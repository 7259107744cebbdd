"""Give a module of a library another forward pass."""

from torch import nn


def swap_class(module: object, kind: type[nn.Module]) -> None:
    """Turn a module into an instance of a subclass of its class.

    Parameters, hooks, configuration and state-dict keys stay as they are, which replacing the module would
    have to copy one by one.
    """
    if not issubclass(kind, type(module)):
        raise TypeError(f"{kind.__name__} is not a subclass of {type(module).__name__}.")
    module.__class__ = kind
