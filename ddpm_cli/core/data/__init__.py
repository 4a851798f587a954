"""Image data: sources, decoding, captions, augmentation and the training order."""
