"""rdmf: find the moments of a video that a sentence describes (arXiv 2606.01615)."""

__version__ = "0.1.0"
