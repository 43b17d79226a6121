"""From prompt to picture: the way of the data, in the order it happens.

`load` opens a checkpoint; a `request` says what is wanted; `walk` makes its pictures out of the `parts`.
"""
