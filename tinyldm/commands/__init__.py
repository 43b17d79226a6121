"""The commands, one file each: its example, its arguments and what it runs. `tinyldm/cli.py` assembles them."""
