"""Judging pictures: features -> mergeable statistics -> scores."""
