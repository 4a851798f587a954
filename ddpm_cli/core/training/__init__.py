"""Training: the loop, the moving average, the snapshots."""
