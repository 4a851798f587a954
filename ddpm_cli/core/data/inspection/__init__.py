"""A look at the images of a source: what is there, copies, and how they look in numbers."""
