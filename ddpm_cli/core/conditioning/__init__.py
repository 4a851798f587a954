"""Conditions: class labels, prompts and tokenised captions."""
