"""Whether a model copies its training images: nearest images, against what held-out images show."""
