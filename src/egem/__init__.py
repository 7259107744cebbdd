"""GEM: a vision-language model that learns where things are by generating depth."""

__version__ = "0.1.0"
