"""The commands of `tinyldm`, one file each: its example, its arguments, what it does."""
