"""Checkpoint to scores: answers, depth maps, intervals, benchmarks. What a benchmark run writes is JSON."""
