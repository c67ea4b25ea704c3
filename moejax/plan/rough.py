"""Estimates memory and time of a step by arithmetic alone, to order a search.

  sizes = dict.fromkeys(mesh.AXES, 1) | {'data': 2, 'fsdp': 32}
  estimate = rough.of(run, sizes, chip, counted)
  estimate.num_bytes, estimate.seconds

Activations are counted in units: one array [tokens, width of the model] of the
tokens of a micro-batch on a device, in bfloat16. The memory of a device is the
sum of

  state     parameters, two moments and gradients; with micro-batches the sum of
            the gradients as well
  kept      the arrays that all layers keep for the backward pass, by `remat`
  layer     the arrays of the layer that is being computed: those of attention,
            or the assignments of one token chunk with the gathered weights,
            whichever are more; with a `context` axis the keys and values of
            whole rows
  head      the gathered head, its gradient, and the logits of one chunk

The constants are set by the four newest plans of large models in
docs/plans.md, whose bytes come out within a tenth and whose seconds within a
fifth (tests/plan/test_rough.py). Those plans have `remat=full`; what other
policies keep was counted in the code.
"""

import dataclasses
import math
from collections.abc import Mapping

from moejax.config.run import Run
from moejax.model import pipeline
from moejax.parallel.pipeline import Schedule
from moejax.plan.chips import Chip
from moejax.plan.count import FEED_FORWARD, Count
from moejax.train import cross_entropy

# Units that a layer keeps outside of its feed-forward, by `remat` policy. The
# search does not try policies that are missing here.
KEPT = {'none': 12.0, 'matmuls': 5.0, 'full': 1.0}
# Units that a feed-forward keeps under remat=matmuls: the products of its
# shared experts. A feed-forward in token chunks keeps nothing.
KEPT_MATMULS = 4.0
# Units of a layer's attention while it is computed.
WORKING = 21.0
# Arrays of an assignment: as wide as the model, and as wide as an expert.
ROWS, HIDDEN = 4.0, 3.0
# Bytes by weight of the layer's feed-forward while it is computed: a copy in
# bfloat16.
COPY = 2.0
# Bytes by weight of the head, gathered, with its gradient; bytes by logit.
HEAD, LOGIT = 6.0, 8.0

# Bytes of a number of the keys of whole rows, in bfloat16, with its gradient in
# float32. No plan was compiled to set this.
KEY = 6.0

# Share of a chip's peak that a step reaches without the network, and share of
# the network's time that no computation hides.
REACHED, EXPOSED = 0.65, 0.4
# Bytes of HBM by weight each time that rows are multiplied by it: it is read in
# bfloat16 three times; the sum of its gradients is read and written.
PASSED = 14.0
# Bytes of network by weight: to gather it for one pass; to reduce its gradient.
GATHER, REDUCE = 2.0, 5.0
# Stands for a device without known rates. Its figures only order candidates.
NO_CHIP = Chip('CPU', 1e11, 0, 1e10, 1e9, 1, 1, 1e9)


@dataclasses.dataclass(frozen=True)
class Rough:
  """Rough estimates of a step.

  Attributes:
    num_bytes: bytes on a device.
    seconds: seconds of the step.
  """

  num_bytes: float
  seconds: float


@dataclasses.dataclass(frozen=True)
class _Load:
  """Amounts on a device from which both estimates start.

  Attributes:
    state: parameters whose training state the devices along `fsdp` share.
    used: parameters that a device computes with, over all its layers.
    ends: parameters of embedding and head; they are part of `used`.
    tokens: tokens of a micro-batch on a device, outside of a pipeline.
    microbatch: those of them that pass a layer at once.
    visits: how often a device reads the weights of its layers in a pass: once,
      or in each iteration of a pipeline a part of them.
    bubble: the share of the iterations that computes nothing of use.
    chunks: number of chunks in which those tokens pass a feed-forward.
    per_token: number of experts that compute a token.
    hidden: width of an expert on a device over the width of the model.
  """

  state: float
  used: float
  ends: float
  tokens: float
  microbatch: float
  visits: float
  bubble: float
  chunks: int
  per_token: float
  hidden: float


def of(
  run: Run, sizes: Mapping[str, int], chip: Chip | None, counted: Count
) -> Rough:
  """The estimates of a run's step.

  Args:
    run: the config.
    sizes: sizes of the mesh's axes; they replace those of `run.mesh`.
    chip: peak rates of a device; None on CPU.
    counted: parameters of the model.
  """
  load = _load(run, sizes, counted)
  return Rough(
    _num_bytes(run, sizes, load),
    _seconds(run, sizes, chip or NO_CHIP, counted, load),
  )


def _load(run: Run, sizes: Mapping[str, int], counted: Count) -> _Load:
  model, moe = run.model, run.model.moe
  total_of, split = counted.total_of, sizes['model']
  ends = total_of['embedding'] + total_of['head']
  stages, schedule = sizes['stage'], _schedule(run, sizes)
  experts = total_of['routed experts'] / split / stages
  others = counted.total - total_of['routed experts'] - ends
  rest = others / split / stages + ends
  gathers = model.num_moe and moe.expert_parallel.gathers_experts
  rows = run.train.batch_size / run.train.micro_batches / _row_shards(sizes)
  tokens = rows * run.data.sequence_length / sizes['context']
  at_once = stages / schedule.microbatches
  return _Load(
    state=rest + experts / sizes['expert'],
    used=rest + experts / (1 if gathers else sizes['expert']),
    ends=ends,
    tokens=tokens,
    microbatch=tokens * at_once,
    visits=schedule.iterations / schedule.repeats,
    bubble=schedule.bubble,
    chunks=math.gcd(model.token_chunks, int(rows * at_once)) or 1,
    per_token=moe.experts_per_token if model.num_moe else 1,
    hidden=(moe.expert_width if model.num_moe else model.dense_width)
    / (split * model.width),
  )


def _row_shards(sizes: Mapping[str, int]) -> int:
  """Number of shards into which the mesh splits the rows of a batch."""
  return sizes['data'] * sizes['stage'] * sizes['fsdp'] * sizes['expert']


def _schedule(run: Run, sizes: Mapping[str, int]) -> Schedule:
  """The pipeline; that of one microbatch where there is none."""
  rows = run.train.batch_size // run.train.micro_batches
  found = pipeline.schedule(run.model, sizes, rows)
  return found or Schedule(sizes['stage'], 1, sizes['stage'])


def _num_bytes(run: Run, sizes: Mapping[str, int], load: _Load) -> float:
  model, remat, layers = run.model, run.model.remat, run.model.num_layers
  unit, at_once = (n * model.width * 2 for n in (load.tokens, load.microbatch))
  assigned = load.per_token * (ROWS + HIDDEN * load.hidden)
  feed_forward = {'none': assigned, 'matmuls': KEPT_MATMULS}.get(remat, 0.0)
  # A layer's input is split over `model` (`model.trunk`).
  kept = KEPT[remat] - 1 + 1 / sizes['model']
  kept += feed_forward if load.chunks == 1 else 0.0
  weights = (load.used - load.ends) / layers * sizes['stage']
  state = 16 if run.train.micro_batches == 1 else 20
  chunk = min(load.tokens, cross_entropy.CHUNK_ELSEWHERE)
  return (
    state * load.state / sizes['fsdp']
    + kept * layers * unit / (1 - load.bubble)
    + max(WORKING * at_once, assigned / load.chunks * at_once + COPY * weights)
    + _keys(run, sizes, load)
    + model.vocab_size * (HEAD * model.width + LOGIT * chunk)
  )


def _keys(run: Run, sizes: Mapping[str, int], load: _Load) -> float:
  """Bytes of the keys and values of whole rows, and of their gradients."""
  model = run.model
  if sizes['context'] == 1 or not model.context_parallel.gathers_keys:
    return 0.0
  features = model.kv_heads * model.heads.widths(model) / sizes['model']
  return load.tokens * sizes['context'] * features * KEY


def passes(run: Run, counted: Count, chunks: int) -> float:
  """Time of a step in forward passes.

  The forward pass counts 1 and the backward pass 2. To these comes the share of
  a forward pass that is recomputed: by the `remat` policy, and for every
  feed-forward in token chunks, since a chunk keeps nothing. A model with
  experts in micro-batches costs one more pass, before all others, for the
  balance losses of the global batch (`train.step`).

  Args:
    run: the config.
    counted: parameters of the model.
    chunks: number of chunks in which tokens pass a feed-forward.
  """
  forward = counted.flops(run.data.sequence_length) / 3
  share = lambda *parts: (
    2
    * run.data.sequence_length
    * sum(counted.active_of[part] for part in parts)
    / forward
  )
  repeated = {
    'none': 0.0,
    # The policy keeps results of matmuls, but not those of Pallas kernels
    # (routed experts, attention's scores), which are computed again.
    'matmuls': 1
    - share('attention', 'dense feed-forward', 'shared experts', 'head'),
    'full': 1.0,
  }[run.model.remat]
  if chunks > 1:
    repeated = max(repeated, share(*FEED_FORWARD))
  further = run.train.micro_batches > 1 and run.model.num_moe > 0
  return 3 + repeated + further


def _seconds(
  run: Run,
  sizes: Mapping[str, int],
  chip: Chip,
  counted: Count,
  load: _Load,
) -> float:
  model, micro = run.model, run.train.micro_batches
  number = passes(run, counted, load.chunks)
  forward = counted.flops(run.data.sequence_length) * run.train.batch_size / 3
  forward /= _row_shards(sizes) * sizes['context'] * sizes['model']
  forward /= 1 - load.bubble
  reads = micro * load.visits
  passed = PASSED * load.used * reads * load.chunks / chip.hbm_bandwidth
  further = micro > 1 and model.num_moe > 0
  weights = 0.0
  if sizes['fsdp'] > 1:
    weights += (GATHER * (2 + further) + REDUCE) * load.used * reads
  elif sizes['data'] > 1:
    weights += 8 * load.used
  # Rows in bfloat16 are sent to the experts and back in every pass. An axis of
  # a few devices lies along one dimension of the torus, hence `chip.links`.
  rows = 0.0
  if sizes['expert'] > 1 and load.used == load.state:
    rows += 2 * load.per_token
  if sizes['model'] > 1:
    rows += 4
  rows *= number * micro * load.tokens * model.width * 2 * model.num_layers
  rows /= 1 - load.bubble
  if sizes['context'] > 1:
    # Every device is sent the keys and values of the others, in every pass.
    features = model.kv_heads * model.heads.widths(model) / sizes['model']
    sent = load.tokens * (sizes['context'] - 1) * features * 2
    rows += number * micro * sent * model.num_layers
  return (
    forward * number / (chip.peak * REACHED)
    + passed
    + EXPOSED * (weights + rows * chip.links) / chip.ici_bandwidth
  )
