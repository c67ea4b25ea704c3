"""Measures: one function a file, listed in `MEASURES` of moejax/analysis."""
