"""Plots, and the inspection of noise schedules."""
