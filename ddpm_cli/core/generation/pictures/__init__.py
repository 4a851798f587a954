"""Sampled images for people: grids, contact sheets and films."""
