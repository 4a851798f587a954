"""Devices, processes, seeds, atomic files, locks, downloads and the run directory."""
