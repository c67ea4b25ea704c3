"""Training: the step, the loop over steps, and checkpoints.

`step` is one jitted training step: `loss`, gradient, `optimizer`. `loop` runs
the steps, and logs, evaluates and saves when each is due. `state` holds all
that a step changes, and is stored by `checkpoint`. docs/glossary.md defines the
words.
"""
