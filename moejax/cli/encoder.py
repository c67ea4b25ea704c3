r"""Vision encoders: what a folder holds, a copy of it, features of images.

  moejax encoder inspect FOLDER
  moejax encoder export FOLDER --to=FOLDER --layout=hub
  moejax encoder features FOLDER --images=photos \
    --out=features.safetensors --layers=-2

FOLDER has config.json and safetensors of SigLIP or CLIP, alone or in a larger
model, or is `owner/name` on the hub, which needs moejax[hf]. `export` writes
the encoder alone, with the names of the hub's files or the short ones of
transformers 5. `features` writes a tensor for each image. More: docs/vision.md.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from moejax.convert import encoders, save
from moejax.core import command, exits, files
from moejax.run import encoder_folders


def main(argv: Sequence[str]) -> None:
  """Reads the flags and runs the subcommand."""
  args = command.parse_alone(_flags(), argv)
  args.run(args)


def _flags() -> argparse.ArgumentParser:
  flags = command.parser(__doc__)
  kinds = flags.add_subparsers(required=True, metavar='inspect|export|features')
  one = kinds.add_parser('inspect', help='what a folder holds')
  one.add_argument('folder')
  one.set_defaults(run=_inspect)
  one = kinds.add_parser('export', help='the encoder of a folder to a folder')
  add = one.add_argument
  add('folder')
  add('--to', required=True, help='folder, made; must have no weights')
  layouts = f'{", ".join(encoders.LAYOUTS)}; default: as it is read'
  add('--layout', default='', help=layouts)
  add('--dtype', default='float32', help=', '.join(save.DTYPES))
  more = command.number(float, 1e-9)
  add('--file_gb', type=more, default=5.0, help='size of a file at most')
  one.set_defaults(run=_export)
  one = kinds.add_parser('features', help='features of images')
  add = one.add_argument
  add('folder')
  add('--images', required=True, help='folder of the images')
  add('--image', action='append', default=[], help='a path in it; default: all')
  add('--out', required=True, help='file to write, safetensors')
  add('--layers', type=_layers, default=(-2,), help='such as -2 or -1,-5')
  most = command.number(int, 1, 2**20)
  add('--batch', type=most, default=8, help='images at a time')
  add('--skip', action='store_true', help='leave out what cannot be read')
  one.set_defaults(run=_features)
  return flags


def _layers(text: str) -> tuple[int, ...]:
  """Numbers of layers with commas between them."""
  try:
    return tuple(int(number) for number in text.split(','))
  except ValueError:
    message = f'={text} must be whole numbers with commas, such as -2 or -1,-5'
    raise argparse.ArgumentTypeError(message) from None


def _request(kind: type, args: argparse.Namespace) -> Any:
  """A dataclass whose fields are flags."""
  names = [field.name for field in dataclasses.fields(kind)]
  return kind(**{name: getattr(args, name) for name in names})


def _inspect(args: argparse.Namespace) -> None:
  for line in encoder_folders.lines(args.folder):
    print(line)


def _export(args: argparse.Namespace) -> None:
  files.check_local(args.to, '--to')
  encoder_folders.export(_request(encoder_folders.Export, args), print)


def _features(args: argparse.Namespace) -> None:
  args.names = tuple(args.image)
  encoder_folders.features(_request(encoder_folders.Features, args), print)


if __name__ == '__main__':
  exits.main(main, keeps=False)
