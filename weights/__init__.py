"""Folders of trained models, which `tinyldm.load` finds by their names."""
