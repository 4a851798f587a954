"""Runs to and from a model hub, with a model card and a folder of diffusers."""
