"""Long work: many pictures from a file of rows, which may be stopped at any moment and goes on where it was.

`rows` reads a file and multiplies lists out; `names` gives each picture its file; `making` makes the pictures of some
rows; `manifest` keeps what was made from what; `run` puts them together on this machine, `cluster` on many.
"""
