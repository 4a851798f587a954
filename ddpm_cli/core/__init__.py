"""The shared core: everything the commands do, without a terminal."""
