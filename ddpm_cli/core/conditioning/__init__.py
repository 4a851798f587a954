"""What images should show: conditions, requests, tokenised captions."""
