"""The commands of ``flask background``."""
