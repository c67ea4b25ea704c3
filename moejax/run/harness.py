"""MoejaxLM: the model of a run as a model of lm-evaluation-harness.

  lm_eval --model moejax --model_args workdir=runs/olmoe --tasks hellaswag

The class is made when it is first asked for, since it is derived from one of
lm_eval's. setup.cfg names it as an entry point, by which later releases of
lm_eval than 0.4.13 find it; `moejax lm_eval` registers it with any release.
"""

import functools
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from moejax.convert import companions
from moejax.core import errors, table, terminal
from moejax.data.hf_tokenizer import HfTokenizer
from moejax.data.vocab import Ids
from moejax.evals.engine import ModelEngine
from moejax.evals.harness import Harness
from moejax.evals.subject import untracked
from moejax.run import trained

# Arguments of --model_args, beside config keys such as config.mesh.fsdp=-1.
# `device` and `max_batch_size` are the harness's own and have no effect.
ARGUMENTS = ('workdir', 'pretrained', 'step', 'max_length', 'batch_size',
             'max_batch_size', 'device')  # fmt: skip
NEEDED = (
  'lm-evaluation-harness is not installed; install it with: '
  "pip install 'lm_eval>=0.4.13'"
)


def open_harness(
  harness: Harness, arguments: dict[str, Any], *, shown: bool = True
) -> None:
  """Opens a run and sets the attributes of a `Harness`.

  Args:
    harness: its attributes are set.
    arguments: those of --model_args. `workdir`, or `pretrained`, which names
      the folder of the results too; `step` of the checkpoint (newest);
      `max_length`, the most tokens that the model reads; `batch_size`, the
      number of texts that are continued at a time, which for the harness's
      default of 1 is moejax's own; and config keys.
    shown: whether progress is shown, by tqdm.

  Raises:
    InputError: an argument is unknown, or the run cannot be opened.
  """
  keys = {k: v for k, v in arguments.items() if k.startswith('config.')}
  for name in arguments:
    if name not in ARGUMENTS and name not in keys:
      raise table.unknown('model argument', name, [*ARGUMENTS, 'config.KEY'])
  workdir = arguments.get('workdir') or arguments.get('pretrained')
  if not workdir:
    raise errors.InputError(
      'the model arguments name no run; give --model_args workdir=runs/NAME'
    )
  overrides = [(k.removeprefix('config.'), str(v)) for k, v in keys.items()]
  opened = trained.open_trained(str(workdir), overrides)
  trained.check_tokenizer(opened)
  vocab = opened.run.data.vocab
  if isinstance(vocab, Ids):
    raise errors.InputError(
      f'{workdir} came without a tokenizer, so its model cannot be asked in '
      'text; import it with one'
    )
  weights, at = opened.weights(
    str(arguments.get('step', 'newest')), terminal.note
  )
  harness.engine = ModelEngine(
    opened.model,
    weights,
    vocab,
    end_ids=companions.end_ids(opened.hf_folder, vocab),
    max_length=int(arguments.get('max_length') or 0),
    special_tokens=True,
    # As transformers decodes what it has generated.
    silent_ids=vocab.special_ids() if isinstance(vocab, HfTokenizer) else (),
    note=terminal.note,
    track=_track if shown else untracked,
    batch_rows=_batch_rows(arguments.get('batch_size')),
  )
  harness.name = str(workdir)
  harness.hf_folder = opened.hf_folder
  harness.info = {'workdir': str(workdir), 'step': at}


def _batch_rows(batch_size: Any) -> int:
  """The engine's `batch_rows`; its default for the harness's default."""
  text = str(batch_size or 1)
  if text.startswith('auto') or text == '1':
    return ModelEngine.batch_rows
  if not text.isdigit():
    raise errors.InputError(
      f"--batch_size {text} must be a number of texts, or 'auto'"
    )
  return int(text)


def _track(items: Iterable[Any], text: str, total: int) -> Iterator[Any]:
  """The items, with the progress bar that lm_eval shows."""
  bar = importlib.import_module('tqdm').tqdm
  return iter(bar(items, desc=text, total=total, disable=total == 0))


@functools.cache
def model_class() -> type[Harness]:
  """The class that lm_eval makes a model of.

  Raises:
    InputError: lm_eval is not installed.
  """
  try:
    model = importlib.import_module('lm_eval.api.model')
  except ModuleNotFoundError:
    raise errors.InputError(NEEDED) from None

  def init(self, **arguments: Any) -> None:
    model.LM.__init__(self)
    open_harness(self, arguments)

  return type('MoejaxLM', (Harness, model.LM), {'__init__': init})


def register() -> None:
  """Makes `--model moejax` known to lm_eval.

  Raises:
    InputError: lm_eval is not installed.
  """
  own = model_class()
  registry = importlib.import_module('lm_eval.api.registry')
  importlib.import_module('lm_eval.models')  # fills the registry
  if 'moejax' not in registry.model_registry:
    registry.register_model('moejax')(own)


def __getattr__(name: str) -> Any:
  """`MoejaxLM`, for the entry point."""
  if name == 'MoejaxLM':
    return model_class()
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
