"""Pictures made of images: sheets, and films with their palettes."""
