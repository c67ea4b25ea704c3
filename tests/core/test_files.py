import hashlib
import json
import os
import subprocess
import sys

import pytest
from etils import epath

from moejax.core import errors, files


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
  path = tmp_path / 'x.txt'
  files.atomic_write_text(path, 'one')
  with open(path) as reader:  # of the old file: it is not written into
    files.atomic_write_text(path, 'two\n')
    assert reader.read() == 'one'
  assert path.read_bytes() == b'two\n'
  assert os.listdir(tmp_path) == ['x.txt']


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'x.json'
  files.atomic_write_json(path, {'a': 1})

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space'):
    files.atomic_write_json(path, {'a': 2})
  assert json.loads(path.read_text()) == {'a': 1}
  assert os.listdir(tmp_path) == ['x.json']


def test_json_is_valid_json(tmp_path):
  files.atomic_write_json(tmp_path / 'x', {'a': [1, 0.1, 'é', None]})
  assert json.loads((tmp_path / 'x').read_text()) == {'a': [1, 0.1, 'é', None]}
  with pytest.raises(ValueError, match='not JSON compliant'):
    files.atomic_write_json(tmp_path / 'x', {'a': float('nan')})


def test_check_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
  files.check_writable(tmp_path / 'a' / 'b')
  assert os.listdir(tmp_path / 'a' / 'b') == []


def test_check_writable_names_a_file(tmp_path):
  (tmp_path / 'f').write_text('')
  for folder in (tmp_path / 'f', tmp_path / 'f' / 'below'):
    with pytest.raises(errors.InputError) as error:
      files.check_writable(folder)
    assert str(error.value) == (
      f"workdir '{folder}' is a file, or lies below one; choose a folder"
    )


def test_check_writable_tells_why_not(tmp_path):
  # A process that may not write one byte more: true for root as well.
  code = (
    'import resource, sys\n'
    'from moejax.core import errors, files\n'
    'resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n'
    'try:\n'
    '  files.check_writable(sys.argv[1])\n'
    'except errors.InputError as error:\n'
    '  print(error)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == (
    f"workdir '{tmp_path}' is not writable (File too large); choose another "
    'folder\n'
  )


def test_check_writable_without_permission(tmp_path, monkeypatch):
  def denied(self, *args, **kwargs):
    raise PermissionError(13, 'Permission denied')

  folder = tmp_path / 'x'
  monkeypatch.setattr(type(files.epath.Path(folder)), 'mkdir', denied)
  with pytest.raises(errors.InputError, match=r'not writable \(Permission'):
    files.check_writable(folder)


def test_an_output_that_can_be_written_is_left_alone(tmp_path):
  old = tmp_path / 'old.json'
  old.write_text('old')
  files.check_output(str(old), '--out')
  files.check_output(str(tmp_path / 'new.json'), '--out')
  files.check_output('gs://bucket/new.json', '--out')
  assert [p.name for p in tmp_path.iterdir()] == ['old.json']
  assert old.read_text() == 'old'


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
  file = tmp_path / 'file'
  file.write_text('')
  for path, words in (
    ('', '--out= is empty'),
    (str(tmp_path), f'--out={tmp_path} is a folder'),
    (f'{tmp_path}/no/x.json', f"there is no folder '{tmp_path}/no'"),
    (f'{file}/x.json', f"there is no folder '{file}'"),
  ):
    with pytest.raises(errors.InputError) as caught:
      files.check_output(path, '--out')
    assert words in str(caught.value)

  def refuse(self, text):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(type(epath.Path('x')), 'write_text', refuse)
  with pytest.raises(errors.InputError, match='is not writable .Permission'):
    files.check_output(str(tmp_path / 'x.json'), '--out')


def test_sha256(tmp_path):
  data = os.urandom((1 << 20) + 7)
  (tmp_path / 'x').write_bytes(data)
  assert files.sha256(tmp_path / 'x') == hashlib.sha256(data).hexdigest()
