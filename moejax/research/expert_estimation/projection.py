"""The model nearest to a truth that the model cannot express.

A normalised sigmoid with more atoms than the truth cannot split an atom whose
slope is not zero: the sum of two sigmoids is no sigmoid. The maximum likelihood
estimate then approaches the model of the least Kullback-Leibler divergence from
the truth (arXiv 2505.10860, its dense regime), with which D4 compares.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from moejax.research.expert_estimation import data, maximum, starts
from moejax.research.expert_estimation.model import Model, Params, double
from moejax.research.expert_estimation.truths import Truth


@dataclasses.dataclass(frozen=True)
class Projection:
  """A projection, and how it was found.

  Attributes:
    params: parameters of the nearest model.
    divergence: Kullback-Leibler divergence of the truth from it, in nats.
    converged: whether the optimiser stopped by its own criterion.
    agreeing: starts that reached the same likelihood.
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

  The expectation is a sum over the nodes of a quadrature, and parameters lie
  within the bounds of `settings`. Without bounds the infimum need not be a
  minimum: the gate of a superfluous sigmoid can go to zero.

  Args:
    model: the form of the nearest model.
    truth: a density with inputs of one dimension.
    num_starts: starts near the truth.
    seed: of the starts.
    settings: of the optimiser.
  """
  nodes = data.quadrature(truth)
  rng = np.random.default_rng(seed)
  begins = [
    starts.near_truth(model, truth, nodes, rng) for _ in range(num_starts)
  ]
  fit = maximum.maximum_likelihood(model, nodes, begins, settings)
  with double():
    log_density_N = np.asarray(
      truth.model.log_density(
        truth.params, jnp.asarray(nodes.x_ND), jnp.asarray(nodes.y_N)
      )
    )
  return Projection(
    params=fit.params,
    divergence=float(nodes.weight_N @ log_density_N) - fit.objective,
    converged=fit.converged,
    agreeing=fit.agreeing,
    starts=num_starts,
  )
