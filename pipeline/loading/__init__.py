"""Cached features to batches of tensors: dataset.py says which queries are usable, resident.py packs them once,
batches.py orders them by length, memory.py says how many fit, likeness.py whether clips and sentences have one space.
"""
