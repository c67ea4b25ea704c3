"""Makes a config into a training run, an evaluation or a report.

`train.train` is the entry of a training run. `trained.open_trained` opens the
workdir of a run to use its model, and `restore` reads checkpoints.
docs/glossary.md defines the words.
"""
