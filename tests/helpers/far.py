"""An object store in a local folder: gs:// paths without a network.

It does what an object store does and no more: a file is put whole, nothing is
appended to, and `open` is a context manager, as TensorFlow's is in etils.
"""

import contextlib
import os

from etils.epath import backend, gpath

GS = 'gs://'


class Store(backend._OsPathBackend):
  """etils' backend for local files, with gs:// paths below a folder."""

  def __init__(self, root):
    self.root = str(root)
    self.puts = []  # names, in order

  def here(self, path):
    return os.fspath(path).replace(GS, f'{self.root}/')

  @contextlib.contextmanager
  def open(self, path, mode):
    assert 'a' not in mode, 'nothing is appended to an object'
    if 'w' in mode:
      self.puts.append(os.path.basename(os.fspath(path)))
      os.makedirs(os.path.dirname(self.here(path)), exist_ok=True)
    with super().open(self.here(path), mode) as f:
      yield f

  def glob(self, path):
    return [x.replace(f'{self.root}/', GS) for x in super().glob(path)]

  def copy(self, path, dst, overwrite):
    self.puts.append(os.path.basename(os.fspath(dst)))
    super().copy(self.here(path), self.here(dst), overwrite)


def _below_root(name):
  inner = getattr(backend._OsPathBackend, name)
  both = name in {'rename', 'replace'}

  def mapped(self, path, *args, **options):
    if both:
      args = [self.here(x) for x in args]
    return inner(self, self.here(path), *args, **options)

  return mapped


for _name in (
  'exists', 'isdir', 'listdir', 'makedirs', 'mkdir', 'rmtree', 'remove',
  'rename', 'replace', 'stat',
):  # fmt: skip
  setattr(Store, _name, _below_root(_name))


def store(monkeypatch, root):
  """From here on gs:// is below a local folder."""
  fake = Store(root)
  monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, 'gs', fake)
  monkeypatch.setattr(gpath, '_GCS_BACKENDS', frozenset({fake}))
  monkeypatch.setattr(gpath, '_is_tf_installed', lambda: False)
  return fake
