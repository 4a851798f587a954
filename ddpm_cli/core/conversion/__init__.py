"""Other people's weights: read, put into our places and back, recomputed their way, compared."""
