"""Feature networks, and the protocols by which images are prepared for them."""
