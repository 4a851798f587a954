"""What may be compared: image files, data sets, arrays and models -> uint8 batches."""
