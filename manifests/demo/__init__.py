"""The demo dataset: procedurally rendered videos with sentences, true moments and graded saliency.

`world` decides what happens in a video, `render` draws it and writes H.264, `sentences` says it in words, `dataset`
puts the three together in a folder of videos and annotations.
"""
