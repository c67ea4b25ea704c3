"""A step of writing copies neither the cache nor the experts of a layer."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import tiny

from moejax.evals import generate
from moejax.evals.sampling import Sampling
from moejax.model.config import ModelConfig
from moejax.moe.config import MoEConfig
from moejax.moe.routers.top_k import TopK

# The experts of a layer and the cache of all layers are the largest arrays.
EXPERTS, WIDTH, HIDDEN = 64, 32, 64
ROWS, SLOTS = 2, 1024
CONFIG = ModelConfig(
  vocab_size=4096,
  max_length=SLOTS,
  num_layers=6,
  width=WIDTH,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  moe=MoEConfig(
    num_experts=EXPERTS, expert_width=HIDDEN, num_shared=0, router=TopK(k=4)
  ),
  dtype='float32',
)
LAYER_BYTES = 4 * EXPERTS * WIDTH * 2 * HIDDEN
KEY_BYTES = 4 * 6 * ROWS * 2 * SLOTS * 8


def memory(model, function, *more):
  """How much memory a compiled step takes, by XLA's own account."""
  length_B = np.full(ROWS, 5, np.int32)
  start = lambda: generate._start(model, SLOTS, length_B, jax.random.key(0))
  rows, cache = jax.eval_shape(start)
  args = (model, Sampling(), model.shapes, cache, rows, *more)
  return function.lower(*args).compile().memory_analysis()


def test_a_step_changes_the_cache_in_place_and_copies_no_layer_of_experts():
  found = memory(tiny.model(CONFIG), generate._write)
  # Keys and values are returned in the memory in which they came.
  assert found.alias_size_in_bytes >= 2 * KEY_BYTES
  assert found.temp_size_in_bytes < KEY_BYTES < LAYER_BYTES


@pytest.mark.soak
def test_reading_a_prompt_makes_logits_of_its_last_tokens_alone():
  # A model without experts: those of a layer are copied for so many tokens.
  config = dataclasses.replace(
    CONFIG, first_dense=6, dense_width=HIDDEN, vocab_size=2**15
  )
  token_BL = np.zeros((ROWS, generate.CHUNK), np.int32)
  found = memory(tiny.model(config), generate._read, (token_BL, None), 0)
  logit_bytes = 4 * ROWS * generate.CHUNK * config.vocab_size
  assert found.temp_size_in_bytes < logit_bytes
