"""Weights for a model whose experts are low rank plus sparse, and back.

  W                        S + U V, of any rank (`model.moe.low_rank`)
  S + U V of another rank  through W

A run whose `start` has experts of another rank begins so. The function stays
the same up to rounding.
"""

import dataclasses

import jax

from moejax.model import build
from moejax.model.config import ModelConfig
from moejax.moe.experts import low_rank


def of_rank(config: ModelConfig, rank: int) -> ModelConfig:
  """A model with another rank of its experts' matrices; 0 for whole ones."""
  return dataclasses.replace(
    config, moe=dataclasses.replace(config.moe, low_rank=rank)
  )


def source(model: build.Model, theirs: ModelConfig) -> build.Model:
  """The model with the rank of another config; itself if they are the same."""
  rank = theirs.moe.low_rank
  if rank == model.config.moe.low_rank or not model.config.num_moe:
    return model
  return build.build(of_rank(model.config, rank), model.mesh)


def changed(
  weights: build.Weights, model: build.Model, target: build.Model
) -> build.Weights:
  """The weights of a model for the same model of another rank.

  Args:
    weights: of `model`, on its devices.
    model: the model that they are for.
    target: the model to be.
  """
  if model is target:
    return weights
  rank = target.config.moe.low_rank

  def convert(weights: build.Weights) -> build.Weights:
    layers = dict(weights['moe']['ffn'])
    factors = layers.pop('low_rank', None)
    if factors is not None:
      layers['routed'] = low_rank.summed(layers['routed'], factors)
    if rank:
      layers['routed'], layers['low_rank'] = low_rank.decomposed(
        layers['routed'], rank
      )
    return {**weights, 'moe': {**weights['moe'], 'ffn': layers}}

  return jax.jit(convert, out_shardings=target.shardings)(weights)
