"""Checkpoints: the files that published weights come in, read, checked, renamed and written."""
