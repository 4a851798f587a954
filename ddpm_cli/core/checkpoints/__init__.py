"""Files of tensors: weights, classifiers and training snapshots, none of which runs code."""
