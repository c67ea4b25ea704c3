"""Composes a config into a training run, an evaluation, a report."""
