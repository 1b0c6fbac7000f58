"""Runs beside others: controls that they must beat, other seeds, other systems.

evaluate_run.py controls.py    a run on a split, and the guesses and broken inputs beside it
systems.py seeds.py            what is compared: runs and files, several as seeds of one
compare.py comparison_text.py  who is better, with paired tests
"""
