"""The theory lab: how fast the experts of a mixture can be estimated.

gates         GATES: probabilities of experts, as functions of x
experts       EXPERTS: the mean of y given x, by the kind of expert
model         Model: a gate, routed experts and shared experts, composed
atoms         Atoms: the mixing measure that a loss compares
voronoi       LOSSES: D1 to D5 and L1, and errors by parameter
align         one member of each class of parameters with equal densities
truths        the ground truths of the experiments
data          samples of a ground truth

Nothing imports this package.
"""
