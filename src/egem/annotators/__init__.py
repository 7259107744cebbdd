"""Models and rules that add what a data set lacks: depth, object names, masks, tracks. `docs/annotate.md`.

Each kind has a small protocol (`depth`, `objects`, `masks`, `tracks`) and implementations beside it. torch and the
models' packages are imported where a model is loaded, never here.
"""
