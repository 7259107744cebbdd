"""Serving a policy to robots and simulators (docs/serving.md)."""
