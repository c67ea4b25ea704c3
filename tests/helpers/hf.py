"""Compares moejax with the stored results of transformers on tiny checkpoints.

tests/golden/make_hf.py makes the checkpoints and the results.
"""

import dataclasses
import functools
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from helpers import tiny
from moejax import config as configs
from moejax.convert import axes, folder, load, rules, save
from moejax.core import trees
from moejax.data.batch import Batch
from moejax.evals import generate, sampling
from moejax.model import block, build, mtp, stages
from moejax.moe import balance
from moejax.moe.balance import switch
from moejax.parallel import mesh as meshes
from moejax.run import train
from moejax.train import cross_entropy
from moejax.train import loss as losses

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'hf'
FAMILIES = sorted(path.name for path in GOLDEN.iterdir())
PREDICT = ['deepseek_v3', 'glm4_moe']
# Classes of transformers; `make_hf.py classes` writes the list.
CLASSES = (GOLDEN.parent / 'hf_classes.txt').read_text().split()
# Families with a second checkpoint, by the names of the modules in memory.
IN_MEMORY = sorted(path.parent.name for path in GOLDEN.glob('*/memory'))


def one_device():
  return meshes.make(meshes.MeshConfig(), jax.devices()[:1])


def read(path, mesh=None):
  """Plan, model and weights of a folder."""
  plan = load.plan(folder.open_folder(str(path)))
  model = build.build(plan.config, mesh or one_device())
  return plan, model, load.weights(plan, model)


def chosen(model, weights, token_BL):
  """experts_NBLK of the layers with experts, ascending: layer by layer."""
  decoder = model.bind(weights)
  one_BL = jnp.ones_like(token_BL)
  position_BL = jnp.broadcast_to(jnp.arange(token_BL.shape[1]), token_BL.shape)
  tokens = decoder._token_context(token_BL, one_BL, position_BL, position_BL)
  x_BLD, experts, k = decoder.embed(token_BL), [], model.config.moe.router.k
  for stage in stages.of(model.config):
    previous = decoder.trunk.no_previous_layer(stage, tokens)
    for group in range(stage.repeats):
      for at, kind in enumerate(stage.kinds):
        place = jax.tree.map(lambda x: x[group], decoder.trunk.specs(stage)[at])  # noqa: B023
        graph, stack = block.nnx.split(getattr(decoder, kind))
        own = jax.tree.map(lambda x, i=place.index: x[i], stack)
        layer = block.nnx.merge(graph, own)
        x_BLD, previous, _ = layer(x_BLD, previous, tokens, None, place)
        if kind == 'moe':
          chosen_BLE = previous.chosen_BLE.astype(jnp.int32)
          _, expert_BLK = jax.lax.top_k(chosen_BLE, k)
          experts.append(jnp.sort(expert_BLK, axis=-1))
  return jnp.stack(experts) if experts else jnp.zeros((0, *token_BL.shape, 0))


def logits(model, weights, token_BL):
  """logits_BLV of rows without padding."""
  token_BL = jnp.asarray(token_BL)
  position_BL = jnp.broadcast_to(jnp.arange(token_BL.shape[1]), token_BL.shape)

  @jax.jit
  def evaluate(weights):
    decoder = model.bind(weights)
    out = decoder(token_BL, jnp.ones_like(token_BL), position_BL)
    return decoder.logits(out.x_BLD)

  return evaluate(weights)


def answer(model, weights, token_BL, gradients=True):
  """What one compiled program says of rows without padding.

  Returns:
    logits_BLV, experts_NBLK, the loss, its gradient or nothing, and the balance
    losses by name, with their coefficients.
  """
  token_BL = jnp.asarray(token_BL)
  position_BL = jnp.broadcast_to(jnp.arange(token_BL.shape[1]), token_BL.shape)

  def loss(weights):
    decoder = model.bind(weights)
    out = decoder(token_BL, jnp.ones_like(token_BL), position_BL)
    weight_BL = jnp.ones(token_BL.shape).at[:, -1].set(0)
    total, *_ = cross_entropy.cross_entropy(
      out.x_BLD, decoder.head(), jnp.roll(token_BL, -1, axis=1), weight_BL
    )
    logits_BLV = decoder.logits(out.x_BLD)
    return total / weight_BL.sum(), (logits_BLV, out.record.balance)

  @jax.jit
  def evaluate(weights):
    if gradients:
      differentiate = jax.value_and_grad(loss, has_aux=True)
      (value, (logits_BLV, sums)), gradient = differentiate(weights)
    else:
      value, (logits_BLV, sums) = loss(weights)
      gradient = {}
    parts = balance.total(model.config.moe.balance, sums)[1] if sums else {}
    return logits_BLV, chosen(model, weights, token_BL), value, gradient, parts

  return evaluate(weights)


def compare(path, gradients=True):
  """The largest differences to the results of transformers.

  Args:
    path: the folder.
    gradients: whether they are computed, which takes three times as long.

  Returns:
    logits over their standard deviation, loss, gradients over their largest
    element, how often another expert was chosen, and the balance loss over its
    size, where the class of transformers has one.
  """
  want = np.load(path / 'expected.npz')
  plan, model, weights = read(path)
  logits_BLV, experts_NBLK, value, gradient, parts = answer(
    model, weights, want['token_BL'], gradients
  )
  gradient = trees.leaves(gradient)
  tensors = {tensor.name: tensor for tensor in plan.tensors}
  far = []
  for key in want:
    if gradients and key.startswith('grad '):
      theirs = want[key]
      ours = as_theirs(tensors[key.removeprefix('grad ')], gradient)
      far.append(np.abs(ours - theirs).max() / np.abs(theirs).max())
  assert len(far) >= 3 or not gradients
  assert experts_NBLK.shape == want['experts_NBLK'].shape
  logits_far = np.abs(logits_BLV - want['logits_BLV']).max()
  balance_far = 0.0
  if 'aux_loss' in want:
    (switch_loss,) = (
      part
      for part in plan.config.moe.balance
      if isinstance(part, switch.SwitchLoss)
    )
    ours = float(parts['switch']) / switch_loss.alpha
    balance_far = abs(ours / float(want['aux_loss']) - 1)
  return {
    'logits': logits_far / want['logits_BLV'].std(),
    'loss': abs(float(value) - float(want['loss'])),
    'gradients': max(far, default=0.0),
    'experts': np.sum(np.asarray(experts_NBLK) != want['experts_NBLK']),
    'balance loss': balance_far,
  }


def compare_mtp(path, gradients=True):
  """The differences of multi-token prediction: logits, loss and gradients.

  Args:
    path: the folder.
    gradients: whether they are computed, which takes three times as long.
  """
  want = np.load(path / 'expected.npz')
  plan, model, weights = read(path)
  token_BL = jnp.asarray(want['token_BL'])
  position_BL = jnp.broadcast_to(jnp.arange(token_BL.shape[1]), token_BL.shape)
  weight_BL = jnp.ones(token_BL.shape).at[:, -1].set(0)
  batch = Batch(
    token_BL,
    jnp.roll(token_BL, -1, axis=1),
    weight_BL,
    position_BL,
    jnp.ones_like(token_BL),
  )

  def loss(weights):
    decoder = model.bind(weights)
    row_B = jnp.arange(len(token_BL))
    further, _ = losses.passes(decoder, batch, row_B, None)
    total = 0.0
    for k, x_BLD in enumerate(further, 1):
      ahead = lambda x, k=k: mtp.ahead(x, batch.segment_BL, k)
      nll, *_ = cross_entropy.cross_entropy(
        x_BLD, decoder.head(), ahead(batch.target_BL), ahead(weight_BL)
      )
      total += nll / len(further) / weight_BL.sum()
    return total, [decoder.logits(x_BLD) for x_BLD in further]

  gradient = {}
  if gradients:
    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, all_logits), gradient = differentiate(weights)
  else:
    value, all_logits = jax.jit(loss)(weights)
  gradient = trees.leaves(gradient)
  tensors = {tensor.name: tensor for tensor in plan.tensors}
  far = {'loss': abs(float(value) - float(want['mtp_loss']))}
  for k, logits_BLV in enumerate(all_logits, 1):
    theirs = want[f'mtp_{k}_BLV']
    off = np.abs(logits_BLV[:, : theirs.shape[1]] - theirs).max()
    far[f'logits {k}'] = off / theirs.std()
  for key in want:
    if gradients and key.startswith('mtp grad '):
      ours = as_theirs(tensors[key.removeprefix('mtp grad ')], gradient)
      off = np.abs(ours - want[key]).max()
      far[key] = off / np.abs(want[key]).max()
  assert len(far) == (1 + gradients) * (1 + len(all_logits))
  return far


def as_theirs(tensor: rules.Tensor, leaves):
  """The weights of moejax that a tensor of theirs holds, in its layout."""
  at = tuple(slice(None) if i is None else i for i in tensor.index)
  x = np.asarray(leaves[tensor.path])[at]
  return axes.pack(x, tensor.free, tensor.rule.theirs)


def greedy(path):
  """New ids by moejax and by transformers, [B, number]."""
  want = np.load(path / 'expected.npz')
  _, model, weights = read(path)
  tokens = functools.partial(
    generate.generate,
    max_new_tokens=want['new_BL'].shape[1],
    end_ids=[],
    start=(),
  )
  greedily = sampling.Sampling(0.0, 1.0, 0)
  new = tokens(model, weights, want['token_BL'].tolist(), greedily)
  return new, want['new_BL'].tolist()


def write_olmoe(path, seed=0):
  """A checkpoint in which every byte has an id, with drawn weights."""
  config = load.plan(folder.open_folder(str(GOLDEN / 'olmoe'))).config
  config = dataclasses.replace(config, vocab_size=259, num_layers=2)
  model = build.build(config, one_device())
  leaves = trees.leaves(tiny.draw(model.shapes, seed=seed))
  save.write(save.plan(config, model.shapes), leaves.get, path)


def fine_tune(path, workdir, steps, **more):
  """Trains from a folder by the command's own code; `more` are overrides.

  Without the self-check before step 0, which takes seconds to compile; all
  tests of tests/end_to_end have it.
  """
  overrides = {
    'data.mixture': 'synthetic',
    'data.vocab.name': 'bytes',
    'data.sequence_length': 32,
    'train.steps': steps,
    'train.batch_size': 8,
    'train.eval_batches': 1,
    'report.samples': False,
    'report.eval_batches': 1,
    'opt.peak_lr': 1e-3,
    'opt.schedule.warmup': 1,
    **more,
  }
  root = pathlib.Path(__file__).parents[2]
  flags = [(key, str(value)) for key, value in overrides.items()]
  config = configs.load(f'{root}/configs/hf/continue.py:{path}', flags)
  with mock.patch.object(train.self_check, 'run'):
    train.train(config, str(workdir))
  return config
