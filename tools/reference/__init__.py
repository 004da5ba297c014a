"""Reads the source for the pages of the reference, so that these pages cannot differ from the code."""
