"""Multi-process training: launching, stopping, watching and restarting workers."""
