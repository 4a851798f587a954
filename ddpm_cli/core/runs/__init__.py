"""Runs as they lie on the disk: listed, compared, inspected, cleaned up."""
