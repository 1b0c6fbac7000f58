"""Everything composed. What all of it shares is here, the rest in folders:

config.py fusion_config.py   what a user may set              model.py      diffusion, fusion and heads as one module
inference.py predict.py      asking a model: features, videos

stage_one/    videos and sentences to features      loading/      features to batches    training/     batches to a run
evaluation/   predictions to numbers                comparison/   runs beside others     inspection/   into a model
experiments/  many trainings as one question        report/       a page about all of it
"""
