"""Measurements of speed and memory; not installed."""
