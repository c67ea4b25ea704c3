"""The benchmark of the data pipeline, its sides in this process and small."""

import json
import pathlib

import pytest

from benchmarks import data as data_lib
from benchmarks import data_peers, peers, step
from moejax.core import command, exits

FIGURES = {
  'reads': [(900.0, 0.5), (1000.0, 2.5), (1100.0, 1.0)],
  'trains': [10.0, 20.0, 40.0],
  'start': [1.0, 2.0, 1.5],
  'packs': [0.5, 0.25, 1.0],
  'datasets': [1.0, 1.0, 1.0],
  'seqio': [4.0, 4.0, 4.0],
}


def _call(capsys, *flags):
  code = exits.call(data_lib.main, flags)
  return code, *capsys.readouterr()


def _folder(flags):
  args, _ = command.parse(data_lib._flags(), flags)
  return args.side, pathlib.Path(args.folder)


@pytest.fixture
def figures(monkeypatch):
  """Every side has the figures above, by round."""
  left = {name: list(values) for name, values in FIGURES.items()}

  def side(words):
    programs = {peer.program: n for n, peer in data_peers.PEERS.items()}
    if name := programs.get(words[2]):
      return {'seconds': left[name].pop(0), 'what': f'{name} 1.0'}
    name, _ = _folder(words[3:])
    value = left[name].pop(0)
    if name == 'reads':
      return {'speed': value[0], 'grown_mb': value[1], 'rows': 7}
    return {'speed' if name == 'trains' else 'seconds': value}

  monkeypatch.setattr(step, 'side', side)
  monkeypatch.setattr(peers, 'check_python', lambda *_: None)
  monkeypatch.setattr(data_lib, 'write_text', _one_megabyte)
  monkeypatch.setattr(
    data_lib,
    '_start',
    lambda _: {'seconds': left['start'].pop(0), 'tensorflow': False},
  )


def _one_megabyte(folder, size):
  del size
  (folder / 'lines.txt').write_text('x' * 999_999 + '\n')
  lines = [json.dumps({'text': f'line {i}'}) for i in range(300)]
  (folder / 'lines.jsonl').write_text('\n'.join(lines))


def test_the_figures_are_medians_and_the_worst_memory(figures, capsys):
  code, out, err = _call(capsys, '--peer_python=other')
  assert (code, err) == (exits.DONE, '')
  lines = out.splitlines()
  assert lines[0].startswith('reading 1,000 tokens/s')
  assert 'trains on 20 tokens/s: 50 times (the aim is 20)' in lines[0]
  assert lines[1] == 'memory that an epoch of 7 rows adds: 2.5 MB'
  assert '1.50 s, without TensorFlow' in lines[2]
  assert lines[3] == 'packing: 2.0 MB/s on one core'
  # 1 MB in 0.5, 0.25 and 1 s, over 1 s and over 4 s.
  assert '  datasets 1.0: 1.0 MB/s; moejax / datasets: 2.00, ' in lines[4]
  assert '  seqio 1.0: 0.2 MB/s; moejax / seqio: 8.00, ' in lines[5]


def test_without_peers_there_are_four_lines(figures, capsys):
  code, out, _ = _call(capsys, '--rounds=1')
  assert code == exits.DONE
  assert len(out.splitlines()) == 4


def test_both_files_have_the_same_documents(tmp_path):
  data_lib.write_text(tmp_path, 300_000)
  plain = (tmp_path / 'lines.txt').read_text().splitlines()
  rows = (tmp_path / 'lines.jsonl').read_text().splitlines()
  assert plain == [json.loads(row)['text'] for row in rows]
  assert len(plain) > 10
  assert 300_000 <= (tmp_path / 'lines.txt').stat().st_size < 600_000


def test_each_side_measures_what_its_name_says(tmp_path, monkeypatch):
  data_lib.write_text(tmp_path, 300_000)
  monkeypatch.setattr(
    data_lib.os, 'sched_setaffinity', lambda *_: None, raising=False
  )
  assert data_lib.SIDES['packs'](tmp_path)['seconds'] > 0
  reads = data_lib.SIDES['reads'](tmp_path)
  assert reads['speed'] > 0
  assert reads['rows'] > 100
  start = data_lib._start(tmp_path)
  assert start['seconds'] > 0
  assert start['tensorflow'] is False
