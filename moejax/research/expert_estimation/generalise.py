"""The generalisation gap of a sparse classifier, against k and T.

  python -m moejax.research.expert_estimation.generalise --trials=20

arXiv 2403.17404 bounds the gap between the error on new data and that on the
training data. With m samples, T experts of which a router picks k, Rademacher
complexity R_m(H) of the experts and Natarajan dimension d_N of the router, the
gap is at most of the order of

  4 C R_m(H) + 2 sqrt((2 k d_N (1 + ln(T / k)) + d_N ln(2 m) + ln(4 / delta))
                      / (2 m))

so that it grows with k almost as k ln(T / k), and with T as its logarithm. The
paper has no experiment. Here linear experts under a top-k gate are trained by
Adam to tell two classes apart, and the measured gaps stand beside
sqrt(k (1 + ln(T / k))). A part that exists is not computed again.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from moejax.core import columns, command, errors, exits, fields, files, terminal
from moejax.research import figures
from moejax.research.expert_estimation import results
from moejax.research.expert_estimation.experts import EXPERTS
from moejax.research.expert_estimation.gates import TopK
from moejax.research.expert_estimation.model import Model, Params

FOLDER = 'runs/expert_estimation/generalise'
NEW_SAMPLES = 5000


@dataclasses.dataclass(frozen=True)
class Task(fields.Checked):
  """A task of two classes, and how its classifier is trained.

  The right label is the sign of x_0 + |x_1| - 1/2. The other inputs tell
  nothing of it; what a classifier reads from them is over-fitted.

  Attributes:
    samples: m, for training.
    width: dimensions of an input, which is normal.
    flipped: probability with which a label is the wrong one.
    steps: of Adam, over all samples at once.
    rate: learning rate.
    trials: training sets.
    seed: of all random numbers.
  """

  samples: int = fields.number(200, at_least=2)
  width: int = fields.number(10, at_least=2)
  flipped: float = fields.number(0.2, at_least=0, at_most=0.5)
  steps: int = fields.number(500, at_least=1)
  rate: float = fields.number(0.05, above=0, at_most=1)
  trials: int = fields.number(20, at_least=1)
  seed: int = fields.number(0, at_least=0)


def draw(
  task: Task, num: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Inputs [num, D] and labels -1 or 1, [num]; float32."""
  x_ND = rng.standard_normal((num, task.width))
  label_N = np.where(x_ND[:, 0] + np.abs(x_ND[:, 1]) > 0.5, 1.0, -1.0)
  flip_N = rng.uniform(size=num) < task.flipped
  label_N = np.where(flip_N, -label_N, label_N)
  return x_ND.astype(np.float32), label_N.astype(np.float32)


def classifier(task: Task, num_experts: int, k: int) -> Model:
  """The sum of the k kept linear experts, weighted by their gates.

  Raises:
    InputError: k is more than the number of experts.
  """
  return Model(
    TopK(k), EXPERTS['linear'], num_experts, width=task.width, regression=True
  )


def start(model: Model, rng: np.random.Generator) -> Params:
  """Small random weights, float32."""
  shapes = model.gate.shapes(model.num_routed, model.width)
  size = model.routed.size(model.width)
  normal = lambda shape: (
    rng.standard_normal(shape) / np.sqrt(model.width)
  ).astype(np.float32)
  empty = np.zeros(0, np.float32)
  return Params(
    gate={name: normal(shape) for name, shape in shapes.items()},
    routed_EP=normal((model.num_routed, size)),
    log_variance_E=empty,
    shared_SQ=empty,
    shared_log_variance_S=empty,
    shared_logit_S=empty,
  )


@functools.partial(jax.jit, static_argnames=('model', 'task'))
def train(
  model: Model, task: Task, begin: Params, x_TND: jax.Array, label_TN: jax.Array
) -> Params:
  """Classifiers of all trials at once, by the logistic loss.

  Args:
    model: the classifier.
    task: steps and learning rate.
    begin: weights, trials in front.
    x_TND: inputs.
    label_TN: labels.
  """
  adam = optax.adam(task.rate)

  def one(params: Params, x_ND: jax.Array, label_N: jax.Array) -> Params:
    def loss(params: Params) -> jax.Array:
      return jnp.mean(jax.nn.softplus(-label_N * model.mean(params, x_ND)))

    def update(state, _):
      params, moments = state
      change, moments = adam.update(jax.grad(loss)(params), moments)
      return (optax.apply_updates(params, change), moments), None

    moments = adam.init(params)  # type: ignore[arg-type]
    state = (params, moments)
    (params, _), _ = jax.lax.scan(update, state, length=task.steps)
    return params

  return jax.vmap(one)(begin, x_TND, label_TN)


@functools.partial(jax.jit, static_argnames='model')
def error_rates(
  model: Model, params: Params, x_TND: jax.Array, label_TN: jax.Array
) -> jax.Array:
  """The share of wrong labels of each trial, [T]."""
  wrong_TN = jax.vmap(model.mean)(params, x_TND) * label_TN <= 0
  return jnp.mean(wrong_TN, axis=1)


def measure(task: Task, num_experts: int, k: int) -> dict[str, Any]:
  """Trains all trials with k of T experts; error rates, ready for JSON."""
  model = classifier(task, num_experts, k)
  known, new, begins = [], [], []
  for trial in range(task.trials):
    # The same data for all numbers of experts.
    rng = np.random.default_rng([task.seed, trial])
    known.append(draw(task, task.samples, rng))
    new.append(draw(task, NEW_SAMPLES, rng))
    begins.append(start(model, rng))
  begin = jax.tree.map(lambda *leaves: np.stack(leaves), *begins)
  stacked = lambda pairs: [np.stack(part) for part in zip(*pairs, strict=True)]
  params = train(model, task, begin, *stacked(known))
  rates = lambda pairs: np.asarray(
    error_rates(model, params, *stacked(pairs)), np.float64
  )
  return {
    'experts': num_experts,
    'k': k,
    'train': rates(known).tolist(),
    'new': rates(new).tolist(),
  }


def shape(num_experts: int, k: int) -> float:
  """The square root of k (1 + ln(T / k)): how the bound grows with k and T."""
  return float(np.sqrt(k * (1 + np.log(num_experts / k))))


def rows_of(parts: Sequence[dict[str, Any]]) -> list[list[str]]:
  """A row for each pair of T and k."""
  rows = [['T', 'k', 'train error', 'new error', 'gap', '±', 'bound shape']]
  for part in parts:
    gap = np.subtract(part['new'], part['train'])
    error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else np.nan
    rows.append([
      str(part['experts']),
      str(part['k']),
      f'{np.mean(part["train"]):.3f}',
      f'{np.mean(part["new"]):.3f}',
      f'{gap.mean():.3f}',
      f'{error:.3f}' if np.isfinite(error) else '-',
      f'{shape(part["experts"], part["k"]):.2f}',
    ])
  return rows


def figure(parts: Sequence[dict[str, Any]]) -> Any:
  """Gaps against T for each k, and against the bound's shape."""
  whole, (left, right) = figures.figure(2)
  ks = sorted({part['k'] for part in parts})
  for k, colour in zip(ks, figures.COLOURS, strict=False):
    some = [part for part in parts if part['k'] == k]
    gap = [np.mean(part['new']) - np.mean(part['train']) for part in some]
    experts = [part['experts'] for part in some]
    left.plot(experts, gap, 'o-', color=colour, label=f'k={k}')
    shapes = [shape(num, k) for num in experts]
    right.plot(shapes, gap, 'o', color=colour, label=f'k={k}')
  left.set_xscale('log', base=2)
  left.set_xlabel('experts T')
  left.set_ylabel('error on new data less that on training data')
  right.set_xlabel('sqrt(k (1 + ln(T / k)))')
  left.legend(fontsize=8)
  return whole


def main(argv: Sequence[str]) -> None:
  """Measures all pairs of T and k."""
  flags = command.parser(__doc__ or '')
  flags.add_argument(
    '--experts', default='2,4,8,16,32', help='T (default: %(default)s)'
  )
  flags.add_argument('--k', default='1,2,4', help='k (default: %(default)s)')
  for name, least in (('trials', 1), ('samples', 2), ('steps', 1)):
    flags.add_argument(
      f'--{name}',
      type=command.number(int, least, 10**6),
      default=getattr(Task(), name),
      help='(default: %(default)s)',
    )
  flags.add_argument(
    '--seed', type=command.number(int, 0, 2**31 - 1), default=0
  )
  flags.add_argument('--out', default=FOLDER, help='(default: %(default)s)')
  args = command.parse_alone(flags, argv)
  task = Task(
    samples=args.samples, steps=args.steps, trials=args.trials, seed=args.seed
  )
  pairs = pairs_of(_numbers('--experts', args.experts), _numbers('--k', args.k))
  folder = pathlib.Path(args.out)
  files.check_writable(folder, '--out')
  asked = {**dataclasses.asdict(task), 'pairs': [[*pair] for pair in pairs]}
  results.same_request(asked, folder)
  parts = []
  for num_experts, k in pairs:
    path = folder / f'T={num_experts},k={k}.json'
    if not path.exists():
      files.atomic_write_json(path, measure(task, num_experts, k))
    parts.append({
      'experts': num_experts,
      'k': k,
      **results.kept(path, 'train', 'new'),
    })
  files.atomic_write_json(
    folder / results.RESULTS, {'request': asked, 'parts': parts}
  )
  image = folder / 'gaps.png'
  figure(parts).savefig(image, dpi=120)
  terminal.say('\n'.join([*columns.aligned(rows_of(parts)), str(image)]))


def pairs_of(
  experts: Sequence[int], ks: Sequence[int]
) -> list[tuple[int, int]]:
  """All pairs (T, k) with k of at most T.

  Raises:
    InputError: there is none.
  """
  pairs = [(num, k) for num in experts for k in ks if k <= num]
  if not pairs:
    raise errors.InputError(
      f'--k={min(ks)} is more than all of --experts={max(experts)}; use a '
      'smaller k'
    )
  return pairs


def _numbers(flag: str, text: str) -> list[int]:
  try:
    numbers = [int(word) for word in text.split(',')]
  except ValueError:
    numbers = [0]
  if min(numbers) < 1:
    raise errors.InputError(
      f'{flag}={text} must be whole numbers of 1 or more; write {flag}=2,4'
    )
  return sorted(set(numbers))


if __name__ == '__main__':
  exits.main(main)
