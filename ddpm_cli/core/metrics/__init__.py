"""Evaluating images: features -> mergeable statistics -> scores."""
