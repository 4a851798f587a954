"""Groups of options, as dataclasses that commands take."""
