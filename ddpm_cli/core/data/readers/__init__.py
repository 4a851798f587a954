"""Readers of what images are published in: one file for each kind of container."""
