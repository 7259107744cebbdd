"""Losses become a checkpoint: configuration, optimizer, saved state, metrics and the one loop."""
