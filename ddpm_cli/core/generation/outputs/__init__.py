"""Where sampled images go: a folder, an archive, and what is recorded of them."""
