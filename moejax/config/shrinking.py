"""`:tiny`: shrinks a run to one of the same kind that a laptop trains."""

import dataclasses
from typing import Any

from moejax.config.run import Run
from moejax.data.config import DataConfig
from moejax.model.attention.rope_scaling import Unscaled
from moejax.model.config import ModelConfig
from moejax.parallel.mesh import MeshConfig


def shrink(run: Run) -> Run:
  """The same kind of run with a small model, few steps and little text.

  Router, dispatcher, shared experts, first dense layers and schedule stay.
  Weights are fresh, because those of `start` would not fit, and there is no
  teacher.
  """
  model, moe = run.model, run.model.moe
  groups = max(model.num_heads // model.kv_heads, 1)
  experts = min(moe.num_experts, 8)
  choices = experts + moe.zero_computation.num
  # None is a share of the run, so that --config.train.steps may be anything.
  schedule = dataclasses.replace(run.opt.schedule, warmup=None)
  dense = min(model.first_dense, 1)
  return dataclasses.replace(
    run,
    model=_with_scaling(
      model.rope.scaling,
      model,
      width=64,
      num_layers=dense + 2,
      first_dense=dense,
      moe_every=min(model.moe_every, 2),
      windows=model.windows[: dense + 2],
      num_heads=4,
      num_kv_heads=max(4 // groups, 1),
      head_dim=16,
      heads=model.heads.shrunk(),
      # Rotates an even number of the 16 features of a head, at least two.
      rope=dataclasses.replace(
        model.rope,
        share=max(round(8 * model.rope.share), 1) / 8,
        scaling=Unscaled(),
      ),
      dense_width=128,
      max_length=64,
      token_chunks=1,
      mtp_layers=min(model.mtp_layers, 1),
      feed_forward=model.feed_forward.shrunk(),
      vocab_size=run.data.vocab.size,
      moe=dataclasses.replace(
        moe,
        num_experts=experts,
        experts_by_layer=(),
        expert_width=32,
        latent_width=min(moe.latent_width, 16),
        low_rank=min(moe.low_rank, 4),
        num_shared=min(moe.num_shared, 1),
        shared=dataclasses.replace(moe.shared, width=0),
        router=_shrunk(moe.router, choices),
        dispatcher=_shrunk(moe.dispatcher, experts),
        balance=tuple(_shrunk(part, choices) for part in moe.balance),
      ),
    ),
    data=_little_text(run.data),
    opt=dataclasses.replace(run.opt, schedule=schedule),
    train=dataclasses.replace(
      run.train,
      steps=20,
      batch_size=8,
      micro_batches=1,
      log_every=5,
      checkpoint_every=10,
      keep_checkpoints_at=(),
      eval_every=20,
      eval_batches=2,
      distillation=dataclasses.replace(
        run.train.distillation, teacher='', teacher_step='newest'
      ),
    ),
    # Four batches take three seconds on two cores; all validation text would
    # take minutes. Tracing compiles a program of its own.
    report=dataclasses.replace(run.report, eval_batches=4, trace_tokens=0),
    mesh=MeshConfig(),
    start='',
    start_step='newest',
  )


def _with_scaling(
  scaling: Unscaled, model: ModelConfig, **changes: Any
) -> ModelConfig:
  """The model with changes, and RoPE scaling for its new rotary features."""
  model = dataclasses.replace(model, **changes)
  scaling = scaling.shrunk(model.heads.rotary_dim(model))
  rope = dataclasses.replace(model.rope, scaling=scaling)
  return dataclasses.replace(model, rope=rope)


def _little_text(data: DataConfig) -> DataConfig:
  """The user's own text, or a little of what ships with the package."""
  data = dataclasses.replace(data, sequence_length=64)
  if data.files or data.conversations:
    return data
  return dataclasses.replace(
    data,
    mixture='minipile',
    sources=(),
    temperature=None,
    max_documents=20,
  )


def _shrunk(config: Any, num_experts: int) -> Any:
  """The config of a router or the like for fewer experts.

  It stays as it is without a method `shrunk`, and in a dense model (no
  experts), whose router is never used.
  """
  shrunk = getattr(config, 'shrunk', None)
  return shrunk(num_experts) if shrunk and num_experts else config
