"""Programs behind docs/studies: from trained runs to tables and figures.

  python -m moejax.research.learning_rates --workdir=runs/studies

runs            finished runs of a sweep, by method and seed
comparison      whether methods differ by more than their seeds do
traced          traces of the checkpoints of a run
page            tables, figures and JSON of a page of docs/studies
figures         axes and error bars that the figures share

learning_rates  the best learning rate of each method
order           study 1: the order of Table 1, and Figure 3, of DeepSeekMoE
redundancy      study 2: experts masked, fewer active, the shared one removed
saturation      study 3: how routers settle, softmax against sigmoid
algorithms      study 4: LibMoE's algorithms, with seeds and error bars

expert_estimation  the theory lab: how fast experts can be estimated

Nothing imports this package.
"""
