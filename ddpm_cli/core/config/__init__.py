"""What defines a run: plain Python, without torch; each setting is declared once."""
