"""Experiment trackers: a run's scalars, previews and settings, elsewhere as well."""
