"""What is odd about sampled images, in words, with what to try."""
