"""Weights of other programs in and out; returns trees, never saves a run."""
