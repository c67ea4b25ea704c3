"""The standard shape that benchmarks measure, and the flags that they share."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from moejax.core import command, errors
from moejax.model.config import DTYPES, ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers import ROUTERS


@dataclasses.dataclass(frozen=True)
class Shape:
  """A model and the batch that it is given: `rows` sequences of `length`."""

  config: ModelConfig
  rows: int
  length: int

  @property
  def tokens(self) -> int:
    """Tokens of one batch."""
    return self.rows * self.length

  @property
  def active_width(self) -> int:
    """Hidden width that a token passes in a layer with experts."""
    moe = self.config.moe
    return int(moe.experts_per_token * moe.expert_width + moe.shared_width)

  def with_model(self, **fields: Any) -> 'Shape':
    """The shape with other fields of its model."""
    config = dataclasses.replace(self.config, **fields)
    return dataclasses.replace(self, config=config)

  def with_moe(self, **fields: Any) -> 'Shape':
    """The shape with other fields of its experts."""
    return self.with_model(moe=dataclasses.replace(self.config.moe, **fields))

  @property
  def arithmetic(self) -> str:
    """What figures hold for beside the machine: the type, and the JAX."""
    return f'{self.config.dtype}, JAX {jax.__version__}'

  def heading(self, rounds: int) -> str:
    """What is measured, as the line above a table."""
    moe = self.config.moe
    return (
      f'({self.tokens} tokens, width {self.config.width}, {moe.num_experts} '
      f'experts of {moe.expert_width}, {moe.experts_per_token:g} for a token '
      f'and {moe.num_shared} shared; forward and backward, {rounds} rounds, '
      f'{self.arithmetic})'
    )


STANDARD = Shape(
  config=ModelConfig(
    vocab_size=8192,
    max_length=256,
    num_layers=4,
    width=256,
    num_heads=8,
    head_dim=32,
    dense_width=640,
    init_std=0.02,
    scan_unroll=4,
    moe=MoEConfig(
      num_experts=16,
      expert_width=128,
      num_shared=1,
      router=ROUTERS['top_k'](k=4),
    ),
  ),
  rows=8,
  length=256,
)


def add_flags(flags: argparse.ArgumentParser) -> None:
  """Adds --rounds, --rows and --dtype."""
  one_or_more = command.number(int, 1)
  flags.add_argument(
    '--rounds',
    type=one_or_more,
    default=10,
    help='how often all sides run in turn (default: %(default)s)',
  )
  flags.add_argument(
    '--rows',
    type=one_or_more,
    default=STANDARD.rows,
    help='sequences of the batch (default: %(default)s); the more tokens, the '
    'less the reading and writing of all weights counts',
  )
  add_dtype(flags)


def add_dtype(flags: argparse.ArgumentParser) -> None:
  """Adds --dtype."""
  flags.add_argument(
    '--dtype',
    choices=DTYPES,
    default=STANDARD.config.dtype,
    help='to compute in (default: %(default)s)',
  )


def parse(
  flags: argparse.ArgumentParser, argv: Sequence[str]
) -> argparse.Namespace:
  """The flags.

  Raises:
    InputError: a wrong flag, or a config key: the shape is fixed.
  """
  args, overrides = command.parse(flags, argv)
  if overrides:
    raise errors.InputError(
      'a benchmark has a fixed shape and takes no --config.*'
    )
  return args


def shape(args: argparse.Namespace) -> Shape:
  """The standard shape with the rows and the type that the flags say."""
  shape = dataclasses.replace(STANDARD, rows=args.rows)
  return shape.with_model(dtype=args.dtype)
