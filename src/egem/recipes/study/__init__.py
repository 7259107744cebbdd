"""`egem study`: does generating depth teach a backbone where things are? Arms x seeds, everything else equal.

arms.py       the arms: what the depth branch is taught, how strongly, on how much data
recipe.py     the sizes: a small study for one processor core, a larger one for a GPU
plan.py       which runs there are, in which order
hypotheses.py what was expected before the first run
parts.py      what runs share: rendered data, the backbone they start from, depth heads after stages 1 and 2
scoring.py    what is measured of a trained model
run.py        one run: train, measure, leave one small JSON file; the study: run after run
results.py    the files of finished runs
significance.py  paired tests over seeds
report.py     tables and figures in docs/study.md
figures.py    the figures
policy_recipe.py, policies.py, policy_report.py    the robot half: policies from two of these backbones
"""
