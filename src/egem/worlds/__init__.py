"""Simulated worlds: they give scenes, and know nothing of questions or models."""
