"""What this machine can do: devices, precision, processes, disk, caches, versions."""
