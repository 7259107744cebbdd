"""Asks a policy server for actions. Needs NumPy, msgpack and websockets, nothing of egem and no torch."""

from egem_client.action_chunks import ActionChunks
from egem_client.errors import RemoteError
from egem_client.real_time_chunks import RealTimeChunks
from egem_client.remote_policy import RemotePolicy
from egem_client.wire import Limits, pack, unpack

__all__ = ["ActionChunks", "Limits", "RealTimeChunks", "RemoteError", "RemotePolicy", "pack", "unpack"]
