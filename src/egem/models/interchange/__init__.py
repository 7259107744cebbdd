"""Checkpoints to and from other layouts: tensors are renamed and moved, never converted.

No model is ever built with memory behind it: names and shapes are checked against a skeleton on the meta
device, then the weights travel from file to file, one shard at a time.
"""
