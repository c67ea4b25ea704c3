"""A batch and a model to a trained state.

`step` is one jitted training step: `loss`, gradient, `optimizer`. `loop` runs
the steps, and logs, evaluates and saves when that is due. `state` is what
changes, and what `checkpoint` stores. docs/glossary.md defines the words.
"""
