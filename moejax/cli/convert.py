r"""Hugging Face checkpoints in and out.

  moejax convert inspect FOLDER
  moejax convert import FOLDER --workdir=runs/olmoe
  moejax convert export --workdir=runs/olmoe --to=FOLDER \
    --dtype=bfloat16
  moejax convert upcycle --workdir=runs/dense --to=runs/moe \
    --config.model.moe.num_experts=8 --config.model.moe.expert_width=11008
  moejax convert join --encoder=siglip --decoder=runs/olmoe \
    --to=runs/seeing

FOLDER has config.json and safetensors, or is `owner/name` on the hub, which
needs moejax[hf]. `inspect` shows what it holds and what does not fit, and reads
no tensor. An `import` that was interrupted goes on with the same command. An
imported, upcycled or joined workdir is for `moejax generate`, and for
`--config.start=WORKDIR` of a run with the same model. More: docs/models.md.
"""

import argparse
import dataclasses
import functools
from collections.abc import Sequence

from moejax.convert import inspection, upcycle
from moejax.core import command, errors, exits, files, terminal
from moejax.run import exporting, importing, joining, upcycling


def main(argv: Sequence[str]) -> None:
  """Reads the flags and runs the subcommand."""
  args, overrides = command.parse(_flags(), argv)
  if overrides and args.run not in {_upcycle, _join}:
    raise errors.InputError(
      f'--config.{overrides[0][0]} is for upcycle and join alone; leave it out'
    )
  args.overrides = overrides
  args.run(args)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  names = 'inspect|import|export|upcycle|join'
  kinds = flags.add_subparsers(required=True, metavar=names)
  one = kinds.add_parser('inspect', help='what a folder holds')
  one.add_argument('folder')
  one.set_defaults(run=_inspect)
  one = kinds.add_parser('import', help='a folder to a workdir')
  one.add_argument('folder')
  one.add_argument('--workdir', required=True, help='made; has to be new')
  one.set_defaults(run=_import)
  one = kinds.add_parser('export', help="a workdir's weights to a folder")
  exporting.add_flags(one)
  one.set_defaults(run=_export)
  one = kinds.add_parser('upcycle', help='a dense model to one with experts')
  upcycling.add_flags(one)
  one.set_defaults(run=_upcycle)
  one = kinds.add_parser('join', help='an encoder and a decoder to one model')
  joining.add_flags(one)
  one.set_defaults(run=_join)
  return flags


def _inspect(args: argparse.Namespace) -> None:
  for line in inspection.lines(args.folder):
    print(line)


def _import(args: argparse.Namespace) -> None:
  files.check_local(args.workdir, '--workdir')
  importing.import_folder(args.folder, args.workdir, print, terminal.note)


def _export(args: argparse.Namespace) -> None:
  files.check_local(args.to, '--to')
  names = [field.name for field in dataclasses.fields(exporting.Export)]
  request = exporting.Export(**{name: getattr(args, name) for name in names})
  exporting.export(request, print, terminal.note)


def _upcycle(args: argparse.Namespace) -> None:
  files.check_local(args.to, '--to')
  recipe = upcycle.Upcycling(args.rescale, args.groups, args.noise, args.seed)
  paths, overrides = (args.workdir, args.to), args.overrides
  run = functools.partial(upcycling.upcycle_run, experts=args.experts)
  print(run(*paths, overrides, recipe, args.step, terminal.note))


def _join(args: argparse.Namespace) -> None:
  files.check_local(args.to, '--to')
  names = [field.name for field in dataclasses.fields(joining.Join)]
  request = joining.Join(**{name: getattr(args, name) for name in names})
  joining.join(request, args.overrides, print, terminal.note)


if __name__ == '__main__':
  exits.main(main)
