"""Vision encoders of Hugging Face folders: contents, copies and features."""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator

import jax
import numpy as np

from moejax.convert import (
  encoders,
  load,
  processors,
  save,
  tensor_files,
)
from moejax.convert import folder as folders
from moejax.core import errors, files, table, trees
from moejax.core.byte_bar import byte_bar
from moejax.parallel import mesh as meshes
from moejax.vision import build, images
from moejax.vision.preprocessing import preprocess

Say = Callable[[str], None]
SUFFIXES = (
  '.bmp',
  '.gif',
  '.jpeg',
  '.jpg',
  '.png',
  '.ppm',
  '.tif',
  '.tiff',
  '.webp',
)


@dataclasses.dataclass(frozen=True)
class Export:
  """An export; each field is a flag of `cli.encoder export`.

  Attributes:
    folder: folder of the encoder, or `owner/name` on the hub.
    to: the folder to write, which must have no weights.
    layout: a key of `encoders.LAYOUTS`; '' for that of the folder.
    dtype: type of the written weights.
    file_gb: largest size of a file of weights, in GB (10^9 bytes).
  """

  folder: str
  to: str
  layout: str = ''
  dtype: str = 'float32'
  file_gb: float = 5.0


@dataclasses.dataclass(frozen=True)
class Features:
  """Features to compute; each field is a flag of `cli.encoder features`.

  Attributes:
    folder: folder of the encoder, or `owner/name` on the hub.
    images: folder of the images.
    out: file to write.
    names: paths of images in their folder; () for all images below it.
    layers: outputs of which layers, see `VisionEncoder.features`.
    batch: number of images that are encoded together.
    skip: whether images that cannot be read are left out.
  """

  folder: str
  images: str
  out: str
  names: tuple[str, ...] = ()
  layers: tuple[int, ...] = (-2,)
  batch: int = 8
  skip: bool = False


def lines(place: str) -> list[str]:
  """What a folder holds, without reading a tensor.

  Raises:
    InputError: it has no encoder that moejax reads.
  """
  plan = encoders.plan(folders.open_folder(place))
  config, family = plan.config, plan.family
  size, side, grid = config.image_size, config.patch_size, config.grid
  total = sum(tensor.size for tensor in plan.tensors)
  found = [
    f'{plan.folder.path} holds a {family.model_type} of {total:,} parameters: '
    f'{config.num_layers} layers of width {config.width} with '
    f'{config.num_heads} heads, feed-forwards of width {config.hidden_width}.',
    f'Images of {size} x {size} pixels become {grid} x {grid} patches of '
    f'{side} x {side} pixels.',
    f'Names of its tensors begin with {plan.prefix!r}.',
  ]
  if plan.ignored:
    found.append(f'Not of the encoder: {folders.shortly(plan.ignored)}.')
  try:
    found.append(f'Images are prepared by {processors.read(plan.folder.path)}.')
  except errors.InputError as e:
    found.append(f'Images cannot be prepared: {e}.')
  return found


def export(args: Export, say: Say) -> None:
  """Writes an encoder alone, in a layout and a type.

  Args:
    args: the export.
    say: is called with lines on the result.

  Raises:
    InputError: there is no encoder in the folder, or the other folder cannot
      be written.
  """
  table.lookup('dtype', save.DTYPES, args.dtype)
  plan = encoders.plan(folders.open_folder(args.folder))
  layout = args.layout or plan.layout
  shapes = encoders.shapes(plan.config)
  written = encoders.export(plan.config, shapes, layout)
  files.check_writable(args.to, '--to')
  leaves = trees.leaves(shapes)

  def get(path: str) -> np.ndarray:
    tensors = [tensor for tensor in plan.tensors if tensor.path == path]
    return load.read_weight(plan, tensors, path, leaves[path])

  with byte_bar('writing', save.num_bytes(written.tensors, args.dtype)) as bar:
    save.write(
      written,
      get,
      pathlib.Path(args.to),
      dtype=args.dtype,
      shard_bytes=int(args.file_gb * 1e9),
      progress=bar,
    )
  say(
    f'{args.to} holds the encoder of {plan.folder.path} as a '
    f'{written.config["model_type"]} in {args.dtype} and layout {layout}; '
    f'transformers loads it as {written.config["architectures"][0]}.'
  )
  _copy_processor(plan.folder.path, pathlib.Path(args.to), say)


def _copy_processor(source: pathlib.Path, to: pathlib.Path, say: Say) -> None:
  """Copies the file that says how images are prepared, if there is one."""
  if (source / processors.FILE).exists():
    shutil.copyfile(source / processors.FILE, to / processors.FILE)
  elif (source / processors.JOINT).exists():
    processors.write(to, processors.read(source))
  else:
    say(f'It has no {processors.FILE}, as {source} has none.')


def features(args: Features, say: Say) -> None:
  """Computes features of images, and writes them as a safetensors file.

  The file has a tensor of float32 [N, D * len(layers)] for each image, under
  the image's path. All are in memory until it is written.

  Args:
    args: what to compute.
    say: is called with lines on the result.

  Raises:
    InputError: the encoder or its preprocessing cannot be read, there is no
      image, or an image cannot be read and `skip` is not set.
  """
  if not files.is_local(args.out):
    raise errors.InputError(f'--out={args.out} must be a file of this machine')
  files.check_output(args.out, '--out')
  plan = encoders.plan(folders.open_folder(args.folder))
  steps = processors.read(plan.folder.path)
  names = list(args.names) or _found(args.images)
  mesh = meshes.make(meshes.MeshConfig(data=1), jax.devices()[:1])
  encoder = build.encoder(plan.config, mesh)
  plan.config.check_layers(args.layers)
  skipped: list[str] = []

  def prepared() -> Iterator[tuple[str, np.ndarray]]:
    for name in names:
      try:
        _check_name(name)
        image_HWC = images.read(args.images, name, images.ReadConfig())
        yield name, preprocess(image_HWC, steps)
      except errors.InputError as e:
        if not args.skip:
          raise
        skipped.append(str(e))

  weights = load.weights(plan, encoder)
  run = jax.jit(
    lambda weights, x: encoder.bind(weights).features(x, args.layers)
  )
  found: dict[str, np.ndarray] = {}
  for batch in _batches(prepared(), args.batch):
    image_BHWC = np.stack([image for _, image in batch])
    rest = args.batch - len(batch)
    image_BHWC = np.pad(image_BHWC, ((0, rest), (0, 0), (0, 0), (0, 0)))
    feature_BND = np.asarray(run(weights, image_BHWC), np.float32)
    for (name, _), feature_ND in zip(batch, feature_BND, strict=False):
      found[name] = feature_ND
  if not found:
    raise errors.InputError(f'no image can be read; the first: {skipped[0]}')
  specs = {name: (x.dtype, x.shape) for name, x in found.items()}
  tensor_files.write(pathlib.Path(args.out), specs, found.items())
  say(f'{args.out} holds the features of {len(found)} images.')
  if skipped:
    say(f'Left out: {len(skipped)} images; the first: {skipped[0]}')


def _check_name(name: str) -> None:
  """Raises InputError for a path that no file of tensors can have."""
  try:
    name.encode()
  except UnicodeEncodeError:
    raise errors.InputError(
      f'the path of the image {name!r} is not UTF-8, as a name of a tensor has '
      'to be: rename it'
    ) from None


def _found(folder: str) -> list[str]:
  """Paths of all images below a folder, sorted."""
  root = pathlib.Path(folder)
  if not root.is_dir():
    raise errors.InputError(f'--images={folder}: there is no such folder')
  names = sorted(
    path.relative_to(root).as_posix()
    for path in root.rglob('*')
    if path.suffix.lower() in SUFFIXES
  )
  if not names:
    raise errors.InputError(
      f'--images={folder} has no image ({", ".join(SUFFIXES)})'
    )
  return names


def _batches(
  prepared: Iterator[tuple[str, np.ndarray]], size: int
) -> Iterator[list[tuple[str, np.ndarray]]]:
  """Consecutive images of one shape, at most `size` of them."""
  batch: list[tuple[str, np.ndarray]] = []
  for name, image in prepared:
    if batch and (len(batch) == size or batch[0][1].shape != image.shape):
      yield batch
      batch = []
    batch.append((name, image))
  if batch:
    yield batch
