"""From prompt to picture: the way of the data, in the order it happens.

`load` opens a checkpoint as a `LatentDiffusion`; `text_to_image` and `image_to_image` are the two walks.
"""
