"""Cached features to batches of tensors: dataset.py says which queries are usable, resident.py packs them once,
batches.py is their order, memory.py how many fit.
"""
