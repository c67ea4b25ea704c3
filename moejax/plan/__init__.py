"""Estimates the cost of a run before it runs, on chips that need not be here.

`topology` names the devices. `compile` compiles the training step for them;
`memory`, `program_cost` and `roofline` read bytes, work and seconds from the
compiled program. `plan` joins these to one record, `table` prints it. `search`
tries many settings, ordered by the arithmetic of `rough`. docs/plans.md says
how good the figures are.
"""
