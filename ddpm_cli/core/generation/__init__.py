"""Generation: sampling images from a trained model, into a folder, a GIF or a metric."""
