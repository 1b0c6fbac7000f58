"""Stage two: cached features to a run folder.

train.py        the whole of it                  epoch.py       a pass over the queries
step.py         one optimisation step            objective.py   what a batch costs
validation.py   which epoch is kept              schedules.py ema.py loss_scale.py       its parts
parallel.py     several processes                randomness.py  what is random, and what must not be
run_folder.py   who may train where              checkpoint.py tensor_files.py training_log.py describe.py  what is left
runs.py         the runs under a folder
"""
