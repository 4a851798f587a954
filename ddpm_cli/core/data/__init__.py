"""Pictures in and out: sources, decoding, the order in which training sees them."""
