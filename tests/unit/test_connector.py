import torch

from egem.models.connector import Connector


def test_shapes_and_sizes() -> None:
    connector = Connector(hidden_size=16, context_size=10)
    assert (connector.hidden_size, connector.context_size) == (16, 10)
    assert connector(torch.randn(2, 3, 16)).shape == (2, 3, 10)
    shapes = {key: tuple(value.shape) for key, value in connector.state_dict().items()}
    assert shapes == {
        "layers.0.weight": (10, 16),
        "layers.0.bias": (10,),
        "layers.2.weight": (10, 10),
        "layers.2.bias": (10,),
        "layers.3.weight": (10,),
    }
