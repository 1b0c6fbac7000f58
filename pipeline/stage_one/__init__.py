"""Stage one: videos and sentences to a folder of cached features, and that folder mended.

features.py          `rdmf features`: annotations, videos and sentences in
import_features.py   `rdmf store import`: features that other tools made
repair.py            `rdmf store repair`: broken shards extracted again, from what sources_of.py and encoder_of.py find
"""
