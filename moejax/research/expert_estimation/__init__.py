"""The theory lab: how fast the experts of a mixture can be estimated.

  python -m moejax.research.expert_estimation --list

gates         GATES: probabilities of experts, as functions of x
experts       EXPERTS: the mean of y given x, by the kind of expert
model         Model: a gate, routed experts and shared experts, composed
atoms         Atoms: the mixing measure that a loss compares
voronoi       LOSSES: D1 to D5 and L1, and errors by parameter
align         one member of each class of parameters with equal densities
theorems      THEOREMS: the assumptions and the rates that papers prove
truths        the ground truths of the experiments
data          samples of a ground truth
starts        STARTS: where an estimator begins
sums          one iteration of EM: sums over samples, and what they give
blocks        samples of many trials in blocks, and the sums of all of them
em            expectation maximisation of all trials at once
maximum       maximum likelihood and least squares by SciPy, with restarts
projection    the nearest model to a truth that the model cannot express
slopes        log-log fits with bootstrap intervals
studies       STUDIES: what is estimated, from which truth, at which sizes
trials        the trials of a study at one sample size
results       resumable parts, slopes, and results.json
speed         seconds for each setting of a theorem
figure        the figure of a study
generalise    the generalisation gap of a sparse classifier against k and T

Nothing imports this package.
"""
