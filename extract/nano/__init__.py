"""The encoders of the demo: a nano Video Swin and a small BERT, their weights, and the script that made them."""
