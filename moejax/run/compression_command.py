"""The command `compress`: flags, progress, tables, masks and the picture."""

import argparse
import json
import shlex
from collections.abc import Sequence
from typing import Any

from moejax.compress import METHODS
from moejax.convert import save
from moejax.core import columns, command, config_tree, errors, terminal
from moejax.core.console import Console
from moejax.data import mixtures
from moejax.run import (
  calibrating,
  compressing,
  compression_rows,
  compression_sweep,
  restore,
)
from moejax.run.calibrating import Calibration
from moejax.run.compressing import CompressionRequest
from moejax.run.compression_sweep import SweepRequest
from moejax.run.screen import Screen

# What a command makes, of which it is asked for one.
PRODUCTS = ('to', 'export', 'mask', 'sweep')


def flags(doc: str) -> argparse.ArgumentParser:
  """The flags of the command, whose docstring is `doc`."""
  parser = command.parser(doc)
  restore.add_step_flag(parser)
  add = parser.add_argument
  add('--workdir', help='of the run, or of an imported model')
  add('--method', help='a method; with --sweep, some with commas between them')
  keep = 'experts of a layer that stay; with --sweep, numbers with commas'
  add('--keep', type=_numbers, help=keep)
  add('--to', help='the new workdir, made; has to be new')
  add('--export', help='a Hugging Face folder, made; instead of a workdir')
  add('--dtype', help=f'with --export: {", ".join(save.DTYPES)}')
  add('--mask', help='a JSON file to write the choice to; makes no model')
  add('--sweep', action='store_true', help='evaluate methods and numbers')
  add('--list', action='store_true', help='list the methods')
  add('--json', action='store_true', help='print JSON')
  add('--seed', type=command.seed, default=0, help='of method=random')
  add = parser.add_argument_group('calibration').add_argument
  at_least_0 = command.number(int, 0)
  add(
    '--files', help='files, folders or globs, each a domain, joined by commas'
  )
  add('--mixture', help='name of a mixture or a task, instead of files')
  add('--domains', default='', help='NAME=WEIGHT, joined by commas')
  documents = f'of each domain; 0: all (default: {calibrating.DOCUMENTS})'
  add('--documents', type=at_least_0, help=documents)
  tokens = 'about how many, in equal shares of the domains (default: all)'
  add('--tokens', type=at_least_0, help=tokens)
  statistics = 'folder of statistics: used if it has some, or else filled'
  add('--statistics', default='', help=statistics)
  by_layer = 'read one layer at a time, for a model that does not fit'
  add('--by_layer', action='store_true', help=by_layer)
  add = parser.add_argument_group('with --sweep').add_argument
  add('--batches', type=at_least_0, help='of each set; 0: all')
  add('--out', help='JSON file (default: WORKDIR/compressions/sweep.json)')
  return parser


def _numbers(text: str) -> list[int]:
  """Whole numbers with commas between them."""
  try:
    return [int(number) for number in text.split(',')]
  except ValueError:
    raise argparse.ArgumentTypeError(
      f'={text} is not a whole number, or several with commas between them'
    ) from None


def listing() -> str:
  """All methods, one line each."""
  rows = [(name, method.summary) for name, method in METHODS.items()]
  return '\n'.join(columns.aligned([('method', 'effect'), *rows], left=(0, 1)))


def run(args: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> None:
  """Makes a model or a mask, or evaluates many; prints what came of it.

  Raises:
    InputError: see `compressing.compress` and `compression_sweep.sweep`; or
      flags that are missing or do not go together.
  """
  _check(args)
  with Screen(0, console=Console(stderr=True)) as screen:
    shown: dict[str, Any] = {'note': screen.line, 'track': screen.track}
    if args.sweep:
      result = compression_sweep.sweep(
        args.workdir, _sweep_request(args), overrides, **shown
      )
    elif args.mask:
      kept_NE = compressing.write_mask(
        args.workdir, args.mask, _request(args), overrides, **shown
      )
    elif args.export:
      result = compressing.export(
        args.workdir,
        args.export,
        _request(args),
        overrides,
        dtype=args.dtype or 'float32',
        **shown,
      )
    else:
      result = compressing.compress(
        args.workdir, args.to, _request(args), overrides, **shown
      )
  if args.sweep:
    _show_sweep(args, result)
  elif args.mask:
    stay, of = int(kept_NE.sum()), kept_NE.size
    terminal.say(f'{args.mask}: {stay} of {of} experts of all layers stay')
  elif args.json:
    terminal.say(json.dumps(result, indent=2))
  else:
    text = text_of(args, overrides)
    said = in_words(args.to or args.export, result, text)
    # What can be done with a workdir.
    terminal.say('\n'.join(said if args.to else said[:1]))


def text_of(
  args: argparse.Namespace, overrides: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
  """Config keys and values that name the text of a calibration to a new run.

  Without --files and --mixture it is the text of the workdir's run. Texts that
  no single key names are left out: a task, and the sources of a run.
  """
  if args.files:
    return [('data.files', args.files)]
  if args.mixture:
    known = args.mixture in mixtures.MIXTURES
    return [('data.mixture', args.mixture)] if known else []
  run = restore.run_of(args.workdir)
  for key, value in overrides:
    if key.startswith('data.'):
      run = config_tree.override(run, key, value)
  if run.data.sources:
    return []
  for key in ('files', 'conversations'):
    if value := getattr(run.data, key):
      return [(f'data.{key}', value)]
  return [('data.mixture', run.data.mixture)]


def in_words(
  to: str, about: dict[str, Any], text: Sequence[tuple[str, str]] = ()
) -> list[str]:
  """Lines on a new workdir, and what can be done with it.

  Args:
    to: the workdir.
    about: of `compressing.compress`.
    text: config keys and values that name the text to train on.
  """
  old, new = about['parameters']
  kept = [len(layer['kept']) for layer in about['layers']]
  more = ''.join(
    f' --config.{key}={shlex.quote(str(value))}'
    for key, value in (*text, *about['steps']['training'])
  )
  quoted, source = shlex.quote(to), shlex.quote(str(about['from']))
  number = f'{min(kept)}'
  if max(kept) > min(kept):
    number += f' to {max(kept)}'
  return [
    f'{to} holds step {about["step"]} of {about["from"]} with {number} of '
    f'{about["experts"][0]} experts in each layer, by {about["method"]}: '
    f'{new:,} of {old:,} parameters, {_megabytes(about)}.',
    f'evaluate   moejax evaluate --workdir={quoted}',
    f'generate   moejax generate --workdir={quoted}',
    'recover    moejax train '
    f'--config=hf/continue:{quoted} --workdir=runs/NEW '
    f'--config.train.distillation.teacher={source}{more}',
    f'export     moejax convert export --workdir={quoted} --to=FOLDER',
  ]


def _megabytes(about: dict[str, Any]) -> str:
  """What the weights take on the disk, and how much of it says nothing new."""
  full, smaller = (f'{size / 1e6:,.1f}' for size in about['bytes'])
  words = f'{smaller} of {full} MB'
  if repeated := about['repeated_bytes']:
    what = 'zeros, in places for experts that a layer does not have'
    if about['steps']['shared_router']:
      what = 'copies of experts that a group shares'
    words += f' ({repeated / 1e6:,.1f} MB of these are {what})'
  return words


def _show_sweep(args: argparse.Namespace, result: dict[str, Any]) -> None:
  """Prints the table or JSON of a sweep, and draws the picture."""
  names = {compression_sweep.FULL} | {
    compression_sweep.name_of(method, keep, args.seed)
    for method in args.method.split(',')
    for keep in args.keep
  }
  asked = {name: x for name, x in result['measured'].items() if name in names}
  rows = compression_rows.rows(asked)
  if args.json:
    about = {key: x for key, x in result.items() if key != 'measured'}
    terminal.say(json.dumps(about | {'rows': rows}, indent=2))
  else:
    terminal.say(f'{args.workdir}, step {result["step"]}')
    terminal.say('\n'.join(compression_rows.lines(rows)))
  path = _sweep_request(args).path(args.workdir)
  terminal.note(compression_rows.draw(rows, path.with_suffix('.svg')))


def _check(args: argparse.Namespace) -> None:
  """Raises InputError for flags that are missing or do not go together."""
  for name in ('workdir', 'method', 'keep'):
    if getattr(args, name) is None:
      raise errors.InputError(f'--{name} is missing; see --help')
  asked = [f'--{name}' for name in PRODUCTS if getattr(args, name)]
  if len(asked) != 1:
    raise errors.InputError(
      f'{" and ".join(asked)} are different products; give one'
      if asked
      else '--to is missing: name the new workdir, or a folder with --export, '
      'or a file with --mask, or compare methods with --sweep'
    )
  if '' in args.method.split(','):
    raise errors.InputError(
      f'--method={args.method} has a comma without a method beside it'
    )
  if args.dtype and not args.export:
    raise errors.InputError(f'--dtype={args.dtype} is for --export')
  if args.sweep:
    if args.by_layer:
      raise errors.InputError(
        '--by_layer is for one model: a sweep holds whole models in memory; '
        'leave it out'
      )
    return
  for name in ('batches', 'out'):
    if getattr(args, name) is not None:
      raise errors.InputError(
        f'--{name}={getattr(args, name)} is for --sweep; leave it out'
      )
  if len(args.keep) > 1 or ',' in args.method:
    listed = ','.join(map(str, args.keep))
    raise errors.InputError(
      f'--method={args.method} --keep={listed} are several models; name one, '
      'or compare them with --sweep'
    )


def _request(args: argparse.Namespace) -> CompressionRequest:
  return CompressionRequest(
    method=args.method, keep=args.keep[0], **_calibration(args)
  )


def _sweep_request(args: argparse.Namespace) -> SweepRequest:
  return SweepRequest(
    methods=args.method.split(','),
    keeps=args.keep,
    batches=args.batches or 0,
    out=args.out or '',
    **_calibration(args),
  )


def _calibration(args: argparse.Namespace) -> dict[str, Any]:
  """The fields that both requests have."""
  text = (args.files, args.mixture, args.documents, args.tokens)
  documents = args.documents
  return {
    'calibration': Calibration(
      files=args.files,
      mixture=args.mixture,
      documents=calibrating.DOCUMENTS if documents is None else documents,
      tokens=args.tokens or 0,
      step=args.step,
      by_layer=args.by_layer,
    ),
    'domains': args.domains,
    'statistics': args.statistics,
    'any_text': all(flag is None for flag in text),
    'seed': args.seed,
  }
