"""Composes a config into a training run, an evaluation, a report.

`train` is the entry of a training run and `restore` that of everything which
begins with a workdir. docs/glossary.md defines the words.
"""
