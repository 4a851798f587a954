"""Weights of other libraries: read, mapped to ours and back, and verified by their outputs."""
