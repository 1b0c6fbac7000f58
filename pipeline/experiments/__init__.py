"""Many trainings as one question, with what they cost.

ablate.py sweep.py ablation_*.py                      variants and seeds of one config on one split: `rdmf ablate`
cross_validation.py crossval_*.py fold_features.py    models tuned and tested fold by fold: `rdmf crossval`
known_results.py                                      what they scored, as files that travel
training_jobs.py kept_results.py                      several trainings at once; nothing is judged twice
cost.py flops.py                                      what a model costs: weights, operations, step, memory
"""
