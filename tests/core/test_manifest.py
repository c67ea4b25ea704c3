import hashlib
import json
import os
import threading

import pytest

from moejax.core import files, manifest


def make_tree(folder):
  (folder / 'a' / 'b').mkdir(parents=True)
  (folder / 'a' / 'b' / 'x').write_bytes(bytes(range(200)))
  (folder / 'y').write_bytes(b'')
  manifest.write_manifest(folder)
  return folder


def test_manifest_lists_every_file(tmp_path):
  make_tree(tmp_path)
  listed = json.loads((tmp_path / 'manifest.json').read_text())['files']
  assert {k: v['bytes'] for k, v in listed.items()} == {'a/b/x': 200, 'y': 0}
  assert listed['y']['sha256'] == hashlib.sha256(b'').hexdigest()
  assert manifest.damage(tmp_path) is None


def truncate(folder):
  with open(folder / 'a/b/x', 'r+b') as f:
    f.truncate(100)


def flip_bit(folder):
  data = bytearray((folder / 'a/b/x').read_bytes())
  data[77] ^= 4
  (folder / 'a/b/x').write_bytes(data)


@pytest.mark.parametrize(
  ('harm', 'reason'),
  [
    (truncate, 'a/b/x has 100 bytes, not 200'),
    (flip_bit, 'a/b/x has another checksum'),
    (lambda f: os.remove(f / 'y'), 'y: No such file or directory'),
    (
      lambda f: os.remove(f / 'manifest.json'),
      'manifest.json cannot be read',
    ),
    (
      lambda f: (f / 'manifest.json').write_text('{"files": {"a'),
      'manifest.json is damaged',
    ),
    (
      lambda f: (f / 'manifest.json').write_bytes(b'\xff\xfe'),
      'manifest.json is damaged',
    ),
    (lambda f: (f / 'manifest.json').write_text('{}'), 'damaged'),
    (lambda f: (f / 'manifest.json').write_text('[]'), 'damaged'),
    (lambda f: (f / 'manifest.json').write_text('{"files": 3}'), 'damaged'),
  ],
)
def test_every_damage_is_found_and_named(tmp_path, harm, reason):
  harm(make_tree(tmp_path))
  assert reason in manifest.damage(tmp_path)


def test_every_single_flipped_bit_of_the_manifest_is_found(tmp_path):
  """Or changes nothing of what it says (a space, say)."""
  path = make_tree(tmp_path) / 'manifest.json'
  good = path.read_bytes()
  for place in range(len(good)):
    bad = bytearray(good)
    bad[place] ^= 1
    path.write_bytes(bad)
    if manifest.damage(tmp_path) is None:
      assert good[place : place + 1].isspace()


def test_several_files_are_summed_at_the_same_time(tmp_path, monkeypatch):
  for name in 'abcd':
    (tmp_path / name).write_text(name)
  together, inner = threading.Barrier(4, timeout=20), files.sha256

  def sha256(*args, **options):
    together.wait()
    return inner(*args, **options)

  monkeypatch.setattr(files, 'sha256', sha256)
  manifest.write_manifest(tmp_path)
  assert manifest.damage(tmp_path) is None
