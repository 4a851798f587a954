"""Several processes: starting, stopping, watching and restarting them."""
