"""Before the first step: data, settings and memory checked, and merged into a plan."""
