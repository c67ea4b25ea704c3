"""The disk of a folder: speed, space, and a folder that cannot be written."""

import os

import pytest

from moejax.doctor import disk
from moejax.doctor.finding import BROKEN, OK


def test_a_folder_is_written_read_and_left_as_it_was(tmp_path):
  found = {one.name: one for one in disk.findings(str(tmp_path), megabytes=2)}
  assert [*found] == ['free', 'write', 'read']
  assert {one.state for one in found.values()} == {OK}
  assert all(one.value > 0 for one in found.values())
  assert str(tmp_path) in found['write'].text
  assert not [*tmp_path.iterdir()]


def test_speeds_are_bytes_over_seconds(tmp_path, monkeypatch):
  monkeypatch.setattr(disk, '_seconds', lambda place, megabytes: (2.0, 0.5))
  _, write, read = disk.findings(str(tmp_path), megabytes=10)
  assert (write.value, read.value) == (5e6, 2e7)
  assert write.text.startswith('5 MB/s in ')
  assert read.text.startswith('20 MB/s in ')


def test_a_folder_that_is_not_there_is_the_one_above(tmp_path):
  runs = tmp_path / 'not' / 'there'
  _, write, _ = disk.findings(str(runs), megabytes=1)
  assert write.text.endswith(f' in {tmp_path}')
  assert not runs.exists()


def test_a_disk_that_cannot_be_written_is_broken(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr(disk.tempfile, 'TemporaryFile', refuse)
  *_, last = disk.findings(str(tmp_path))
  assert last.state == BROKEN
  assert last.text == f'{tmp_path}: No space left on device'
  assert last.remedy == 'take another --workdir'


@pytest.mark.parametrize('megabytes', [1, 3])
def test_as_many_bytes_are_written_as_are_counted(
  megabytes, tmp_path, monkeypatch
):
  written = []
  real = disk.tempfile.TemporaryFile

  def watched(**kwargs):
    f = real(**kwargs)
    write = f.write
    f.write = lambda block: written.append(len(block)) or write(block)
    return f

  monkeypatch.setattr(disk.tempfile, 'TemporaryFile', watched)
  assert all(seconds > 0 for seconds in disk._seconds(tmp_path, megabytes))
  assert sum(written) == megabytes * 1_000_000
