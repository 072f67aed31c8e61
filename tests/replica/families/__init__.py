"""Miniature pipelines of every family, each saved by diffusers itself with random weights."""
