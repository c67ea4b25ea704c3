"""A shape for benchmarks that compiles in seconds."""

from benchmarks import standard
from moejax.moe.config import MoEConfig
from moejax.moe.routers import ROUTERS

SMALL = standard.Shape(
  standard.STANDARD.with_model(
    vocab_size=64,
    max_length=16,
    num_layers=2,
    width=16,
    num_heads=2,
    head_dim=8,
    dense_width=32,
    moe=MoEConfig(
      num_experts=4, expert_width=8, num_shared=1, router=ROUTERS['top_k'](k=2)
    ),
  ).config,
  rows=4,
  length=16,
)
