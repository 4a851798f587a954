"""The machine: processes, seeds, files written whole, downloads, the run directory."""
