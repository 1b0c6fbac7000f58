"""Looking into a model.

figures.py                          moments along a video
trace.py trace_figure.py            the species of one query, step by step
stability.py stability_figure.py    learned rates as a dynamical system
"""
