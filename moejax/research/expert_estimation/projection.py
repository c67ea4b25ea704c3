"""The model nearest to a truth that the model cannot express.

A normalised sigmoid with more atoms than the truth cannot split an atom whose
slope is not zero: the sum of two sigmoids is no sigmoid. The maximum likelihood
estimate then approaches the model of the least Kullback-Leibler divergence from
the truth (arXiv 2505.10860, its dense regime), with which D4 compares.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from moejax.research.expert_estimation import data, em, maximum, starts
from moejax.research.expert_estimation.model import Model, Params, double
from moejax.research.expert_estimation.truths import Truth

# Divergences that differ by less, in nats, are one.
AGREE = 1e-6
# Of EM: thousands of nodes stand for a density and not for a sample, and their
# log likelihood is known better than to 1.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Projection:
  """A projection, and how it was found.

  Attributes:
    params: parameters of the nearest model.
    divergence: Kullback-Leibler divergence of the truth from it, in nats.
    converged: whether EM and the optimiser stopped by their own criteria.
    agreeing: starts from which EM reached the same divergence, to `AGREE`.
    starts: starts in all.
  """

  params: Params
  divergence: float
  converged: bool
  agreeing: int
  starts: int


def project(
  model: Model,
  truth: Truth,
  num_starts: int = 8,
  seed: int = 0,
  settings: maximum.Optimiser | None = None,
) -> Projection:
  """Minimises the Kullback-Leibler divergence of the truth from the model.

  The expectation is a sum over the nodes of a quadrature, which EM maximises
  from all starts at once as if the nodes were samples; L-BFGS-B goes on from
  the best. Parameters lie within the bounds of `settings`. Without bounds the
  infimum need not be a minimum: the gate of a superfluous sigmoid can go to
  zero.

  Args:
    model: the form of the nearest model.
    truth: a density with inputs of one dimension.
    num_starts: starts near the truth.
    seed: of the starts.
    settings: of the optimiser; EM takes its bounds from them.
  """
  settings = settings or maximum.Optimiser()
  nodes = data.quadrature(truth)
  rng = np.random.default_rng(seed)
  begins = [
    starts.near_truth(model, truth, nodes, rng) for _ in range(num_starts)
  ]
  every = lambda *leaves: np.stack(leaves)
  repeated = lambda array: np.stack([array] * num_starts)
  with double():
    found = em.fit(
      model,
      em.Settings(
        iterations=settings.iterations,
        tolerance=TOLERANCE,
        least_variance=settings.least_variance,
        largest_gate=settings.largest_gate,
      ),
      jax.tree.map(every, *begins),
      repeated(nodes.x_ND),
      repeated(nodes.y_N),
      repeated(nodes.weight_N),
    )
  value_T = np.nan_to_num(found.objective_T, nan=-np.inf)
  best = int(np.argmax(value_T))
  near = jax.tree.map(lambda leaf: np.asarray(leaf[best]), found.params)
  fit = maximum.maximum_likelihood(model, nodes, [near], settings)
  with double():
    log_density_N = np.asarray(
      truth.model.log_density(
        truth.params, jnp.asarray(nodes.x_ND), jnp.asarray(nodes.y_N)
      )
    )
  return Projection(
    params=fit.params,
    divergence=float(nodes.weight_N @ log_density_N) - fit.objective,
    converged=fit.converged and bool(found.converged_T[best]),
    agreeing=int(np.sum(value_T >= value_T[best] - AGREE)),
    starts=num_starts,
  )
