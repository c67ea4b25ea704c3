"""Folders as people have them: which files are found, under which names."""

import errno
import json
import os
import pathlib
import socket
import subprocess

import pytest

from moejax.core import errors
from moejax.core import files as core_files
from moejax.data import build, config, files, long_text, patterns, sums, vocab

KINDS = ('.txt', '.txt.gz', '.jsonl', '.jsonl.gz', '.parquet')


def _texts(pattern, **kwargs):
  return list(files.Files(str(pattern), **kwargs).all_texts())


def _names(pattern, folder):
  """The names that a pattern finds, relative to a folder."""
  found = patterns.find('data.files', str(pattern)).paths
  return [os.path.relpath(path, folder) for path in found]


def _notes(pattern):
  return list(patterns.find('data.files', str(pattern)).notes)


def _error(pattern, **kwargs):
  with pytest.raises(errors.InputError) as caught:
    _texts(pattern, **kwargs)
  message = str(caught.value)
  assert len(message.splitlines()) == 1
  assert message.isprintable()
  return message


@pytest.fixture
def tree(tmp_path):
  """Folders with links of every sort, hidden files and other kinds."""
  top = tmp_path / 'top'
  for name in (
    'b.txt', 'A.TXT', 'deep/c.txt', 'deep/er/d.txt', 'deep/er/notes.md',
    '.hidden.txt', '.git/e.txt', '.DS_Store', 'deep/._c.txt', 'z.txt.part',
  ):  # fmt: skip
    (top / name).parent.mkdir(parents=True, exist_ok=True)
    (top / name).write_text(name)
  outside = tmp_path / 'outside'
  (outside / 'sub').mkdir(parents=True)
  (outside / 'f.txt').write_text('f')
  (outside / 'sub' / 'g.txt').write_text('g')
  (tmp_path / 'alone.txt').write_text('alone')
  (top / 'link.txt').symlink_to(tmp_path / 'alone.txt')
  (top / 'linked').symlink_to(outside)
  for name in ('aa', 'zz'):  # links to a folder that is there without one
    (top / name).symlink_to('deep')
  (top / 'again.txt').symlink_to('b.txt')
  (top / 'deep' / 'up').symlink_to('..')  # two cycles: paths without end
  (outside / 'back').symlink_to(top)
  return top


def test_a_folder_is_searched_through_links_and_each_file_found_once(tree):
  assert _names(tree, tree) == [
    'A.TXT',
    'b.txt',
    'deep/c.txt',
    'deep/er/d.txt',
    'link.txt',
    'linked/f.txt',
    'linked/sub/g.txt',
  ]


def test_a_folder_holds_the_files_that_find_finds(tree):
  """By the command of Unix: through links, by real path, nothing hidden."""
  done = subprocess.run(
    ['find', '-L', '.', '-name', '.?*', '-prune', '-o', '-type', 'f', '-print'],
    cwd=tree,
    capture_output=True,
    text=True,
    check=False,  # it complains of the cycles
  )
  names = [n for n in done.stdout.splitlines() if n.lower().endswith(KINDS)]
  want = {os.path.realpath(tree / name) for name in names}
  found = patterns.find('data.files', str(tree)).paths
  assert sorted(map(os.path.realpath, found)) == sorted(want)
  assert len(want) == 7


@pytest.mark.parametrize(
  'glob', ['**', '**/*', '**/*.[tT][xX][tT]', '*,*/**', '**/*.txt,*.TXT']
)
def test_a_folder_and_a_glob_find_the_same(glob, tree):
  glob = ','.join(f'{tree}/{part}' for part in glob.split(','))
  found, want = (
    sorted(patterns.real(path) for path in patterns.find('x', pattern).paths)
    for pattern in (glob, str(tree))
  )
  assert found == want


@pytest.mark.parametrize(
  ('glob', 'want'),
  [
    ('*', ['A.TXT', 'b.txt', 'link.txt']),
    ('*.txt', ['b.txt', 'link.txt']),
    ('*/*.txt', ['deep/c.txt', 'linked/f.txt']),
    ('deep/**/d.txt', ['deep/er/d.txt']),
    ('**/er/*', ['deep/er/d.txt']),
    ('deep/up/*/f.txt', ['deep/up/linked/f.txt']),
    ('[!a].txt', ['b.txt']),
    ('?.txt', ['b.txt']),
    ('.*.txt', ['.hidden.txt']),
    ('.git/*', ['.git/e.txt']),
    ('.git', ['.git/e.txt']),
    ('../outside/../top/b.txt', ['b.txt']),
  ],
)
def test_globs(glob, want, tree):
  assert _names(f'{tree}/{glob}', tree) == want


def test_what_is_passed_over_is_said(tree):
  assert _notes(tree) == [
    'passed over 2 files of unknown kinds, the first is '
    f'{tree}/deep/er/notes.md',
    '1 file under more than one name, read once; the first is '
    f'{tree}/again.txt, also {tree}/b.txt',
  ]
  assert _notes(tree / 'b.txt') == []
  notes = []
  list(files.Files(str(tree)).all_texts(note=notes.append))
  assert notes == _notes(tree)


def test_two_spellings_of_a_name_are_one_file(tmp_path, monkeypatch):
  (tmp_path / 'a.txt').write_text('a')
  (tmp_path / 'b').mkdir()
  (tmp_path / 'link.txt').symlink_to('a.txt')
  monkeypatch.chdir(tmp_path)
  pattern = f'./a.txt,b/../a.txt,{tmp_path}/a.txt,*.txt,link.txt'
  assert _texts(pattern) == ['a']
  assert _texts('link.txt') == ['a']
  assert _texts('b/../link.txt,link.txt') == ['a']


def test_a_name_without_links_is_kept(tmp_path):
  (tmp_path / 'z.txt').write_text('z')
  (tmp_path / 'a.txt').symlink_to('z.txt')
  assert _names(tmp_path, tmp_path) == ['z.txt']


def test_the_order_is_that_of_absolute_names(tmp_path, monkeypatch):
  for name in ('b.txt', 'a.txt', 'c.txt'):
    (tmp_path / name).write_text(name)
  monkeypatch.chdir(tmp_path)
  for pattern in (
    f'a.txt,{tmp_path}/b.txt,c.txt',
    f'{tmp_path}/c.txt,b.txt,{tmp_path}/a.txt',
    '.',
  ):
    assert _texts(pattern) == ['a.txt', 'b.txt', 'c.txt']


NAMES = [
  'a,b.txt',
  'with space.txt',
  'a*.txt',
  '[x].txt',
  'what?.txt',
  'back\\slash.txt',
  'two\nlines.txt',
  'it\'s "quoted".txt',
  '~.txt',
  '-flag.txt',
  'é漢🙂.txt',
  os.fsdecode(b'latin-\xe9.txt'),
  '.txt',
]


@pytest.mark.parametrize('name', NAMES)
def test_any_name_can_be_given(name, tmp_path):
  (tmp_path / name).write_text('wanted')
  (tmp_path / 'other.txt').write_text('other')
  for wild in ('axx.txt', 'x.txt', 'whats.txt', 'a', 'b.txt'):
    (tmp_path / wild).write_text('unwanted')
  # The name of what is there is that.
  assert _texts(tmp_path / name) == ['wanted']
  # Between commas, a backslash takes the meaning from what has one.
  escaped = ''.join('\\' + c if c in ',*?[\\' else c for c in name)
  assert _texts(f'{tmp_path}/{escaped},{tmp_path}/other.txt') == (
    _texts(tmp_path / 'other.txt') + ['wanted']
    if name > 'other.txt'
    else ['wanted', 'other']
  )
  if not set(name) & set(',\\'):
    both = _texts(f'{tmp_path}/{name},{tmp_path}/other.txt')
    assert sorted(both) == ['other', 'wanted']
  # So it does where the rest of the name is a glob.
  assert _texts(f'{tmp_path.parent}/{tmp_path.name[:-1]}?/{escaped}') == [
    'wanted'
  ]


@pytest.mark.parametrize('name', NAMES)
def test_a_bad_file_is_one_printable_line_whatever_its_name(name, tmp_path):
  (tmp_path / name).write_bytes(b'\xff')
  (tmp_path / 'good.jsonl').write_text('{"text": "good"}\n')
  assert 'not UTF-8' in _error(tmp_path / name)
  notes = []
  own = files.Files(str(tmp_path), bad_lines='skip')
  assert list(own.all_texts(note=notes.append)) == (['good'])
  if not name.startswith('.'):
    (note,) = notes
    assert note.isprintable()
    note.encode()


@pytest.mark.parametrize('name', NAMES)
def test_every_name_is_packed_and_found_again(name, tmp_path, monkeypatch):
  monkeypatch.setattr(sums, '_TICK_S', -60)
  folder = tmp_path / 'texts'
  folder.mkdir()
  (folder / name).write_text('some words and lines\n' * 9)
  read, real = [], core_files.sha256
  monkeypatch.setattr(
    core_files, 'sha256', lambda path: [read.append(path), real(path)][1]
  )
  made = config.DataConfig(
    files=str(folder / name),
    vocab=vocab.Bytes(),
    sequence_length=8,
    cache_dir=str(tmp_path / 'cache'),
  )
  first = build.build(made, 2, 0)
  assert folder / name in read
  read.clear()
  assert build.contents(build.build(made, 2, 0)) == build.contents(first)
  assert folder / name not in read


def test_a_config_with_any_name_can_be_written(tmp_path):
  tree = {'files': os.fsdecode(b'latin-\xe9.txt'), 'é': '漢'}
  core_files.atomic_write_json(tmp_path / 'config.json', tree)
  text = (tmp_path / 'config.json').read_text()
  assert json.loads(text) == tree


@pytest.mark.parametrize('name', ['A.TXT', 'b.Txt', 'c.JSONL', 'd.JsonL'])
def test_endings_are_known_in_any_case(name, tmp_path):
  text = '{"text": "x"}'
  (tmp_path / name).write_text(text)
  want = [text] if name.lower().endswith('.txt') else ['x']
  assert _texts(tmp_path) == _texts(tmp_path / name) == want


def test_a_folder_with_the_ending_of_a_file_is_a_folder(tmp_path):
  (tmp_path / 'a.txt').mkdir()
  (tmp_path / 'a.txt' / 'b.txt').write_text('b')
  assert _texts(tmp_path / 'a.txt') == _texts(tmp_path) == ['b']
  assert _texts(f'{tmp_path}/*/*') == ['b']
  assert 'no file there matches' in _error(f'{tmp_path}/*')


@pytest.mark.parametrize(
  ('pattern', 'reason'),
  [
    ('', 'names no file'),
    (',,', 'names no file'),
    ('/no/such', "'/no/such': no file there matches; known kinds are: .txt"),
    ('[/no/a.txt, /no/b.txt]', 'a list has no brackets: /no/a.txt,/no/b.txt'),
    ("('/no/a.txt','/no/b.txt')", 'no brackets: /no/a.txt,/no/b.txt'),
    ('["/no/a.txt"]', 'a list has no brackets: /no/a.txt'),
    ('[ab].[tx]', "'[ab].[tx]': no file there matches; known kinds are: .txt"),
    ('/no/{a,b}.txt', 'braces are not expanded: name each file, joined by'),
    ('/no/such/*', 'no file there matches'),
    ('/no/**/such/*.txt', 'no file there matches'),
    ('~nobody-of-this-name/x', 'no file there matches'),
    ('x' * 5000, 'no file there matches'),
    ('a\0b', 'no file there matches'),
    ('a\nb', r"'a\nb': no file there matches"),
    ('\\', 'no file there matches'),
    ('[', 'no file there matches'),
  ],
)
def test_what_names_nothing_is_one_line(pattern, reason, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert reason in _error(pattern)


def test_an_empty_folder_and_one_of_other_kinds(tmp_path):
  assert 'no file there matches' in _error(tmp_path)
  (tmp_path / 'a\nb.md').write_text('x')
  assert r'a\nb.md is of an unknown kind' in _error(tmp_path)
  assert r'a\nb.md is of an unknown kind' in _error(f'{tmp_path}/*')
  assert r'a\nb.md is of an unknown kind' in _error(tmp_path / 'a\nb.md')


def test_a_folder_that_cannot_be_read_is_one_line(tree, monkeypatch):
  real = os.scandir

  def denied(path):
    if pathlib.Path(path).name == 'er':
      raise PermissionError(errno.EACCES, 'Permission denied')
    return real(path)

  monkeypatch.setattr(os, 'scandir', denied)
  assert 'deep/er cannot be read: Permission denied' in _error(tree)


def _no_files(folder):
  """What has the name of a text and is none."""
  os.mkfifo(folder / 'pipe.txt')
  (folder / 'zeros.txt').symlink_to('/dev/zero')
  (folder / 'nowhere.jsonl').symlink_to('no/such')
  (folder / 'itself.txt').symlink_to('itself.txt')
  with socket.socket(socket.AF_UNIX) as s:
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket is at most 108 bytes
    s.bind('socket.txt')
    os.chdir(here)
  return {
    'pipe.txt': 'a named pipe',
    'zeros.txt': 'a device or a socket',
    'socket.txt': 'a device or a socket',
    'nowhere.jsonl': 'a link that leads nowhere (No such file',
    'itself.txt': 'a link that leads nowhere (Too many levels of symbolic',
  }


def test_pipes_devices_and_dead_links_are_said_and_never_wait(tmp_path):
  problems = _no_files(tmp_path)
  for name, problem in problems.items():
    assert f'{tmp_path}/{name}: {problem}' in _error(tmp_path / name)
  message = _error(tmp_path)
  assert message.startswith(f'5 bad documents, the first is {tmp_path}/itself')
  (tmp_path / 'a.txt').write_text('a')
  notes = []
  own = files.Files(f'{tmp_path}/**', bad_lines='skip')
  assert list(own.all_texts(note=notes.append)) == ['a']
  assert notes == [message.replace('5 bad', 'left out 5 bad').split(';')[0]]
  own.identity('train', sums.Sums(tmp_path))


def test_a_file_that_vanishes_after_the_search_is_one_line(tmp_path):
  for name in 'ab':
    (tmp_path / f'{name}.txt').write_text(name)
  own = files.Files(str(tmp_path), bad_lines='skip')
  texts = own.all_texts()
  assert next(texts) == 'a'
  (tmp_path / 'b.txt').unlink()
  # It may be back for the next start: no bad document, and never left out.
  for use in (
    lambda: list(texts),
    lambda: own.identity('train', sums.Sums(tmp_path)),
    lambda: own.former_identity('train', sums.Sums(tmp_path)),
  ):
    with pytest.raises(errors.InputError) as caught:
      use()
    assert str(caught.value) == (
      f'{tmp_path}/b.txt cannot be read: No such file or directory'
    )


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    (pathlib.Path.unlink, 'cannot be read: No such file or directory'),
    (lambda path: path.write_text('shorter'), 'became shorter while it was'),
  ],
)
def test_a_long_file_that_changes_before_it_is_packed_is_one_line(
  change, reason, tmp_path, monkeypatch
):
  """Such a file is read again piece by piece."""
  monkeypatch.setattr(long_text, 'LONG', 9)
  path = tmp_path / 'a.txt'
  path.write_text('words and lines\n' * 9)
  (text,) = files.Files(str(path)).all_texts()
  change(path)
  for use in (
    lambda: list(text.chunks()),
    lambda: text.ends(0.1),
    text.sha256,
  ):
    with pytest.raises(errors.InputError) as caught:
      use()
    assert str(caught.value).startswith(f'{path} {reason}')


def test_files_that_come_during_a_start_wait_for_the_next(tmp_path):
  (tmp_path / 'a.txt').write_text('a')
  own = files.Files(str(tmp_path))
  before = own.identity('train', sums.Sums(tmp_path))
  (tmp_path / 'b.txt').write_text('b')
  assert list(own.all_texts()) == ['a']
  assert own.identity('validation', sums.Sums(tmp_path)) == before


@pytest.mark.parametrize(
  ('number', 'reason'),
  [(errno.EACCES, 'Permission denied'), (errno.EIO, 'Input/output error')],
)
@pytest.mark.parametrize('kind', ['a.txt', 'a.jsonl', 'a.txt.gz', 'a.jsonl.gz'])
def test_a_file_the_system_cannot_read_is_never_left_out(
  number, reason, kind, tmp_path, monkeypatch
):
  (tmp_path / kind).write_text('a')

  def denied(*args, **kwargs):
    raise OSError(number, reason)

  monkeypatch.setattr(pathlib.Path, 'open', denied)
  monkeypatch.setattr('builtins.open', denied)
  with pytest.raises(errors.InputError) as caught:
    _texts(tmp_path, bad_lines='skip')
  assert str(caught.value) == f'{tmp_path}/{kind} cannot be read: {reason}'


def test_validation_files_are_left_out_by_any_name(tmp_path):
  (tmp_path / 'texts').mkdir()
  for name in 'ab':
    (tmp_path / 'texts' / f'{name}.txt').write_text(name)
  (tmp_path / 'held_out').mkdir()
  (tmp_path / 'held_out' / 'link.txt').symlink_to('../texts/b.txt')
  own = files.Files(f'{tmp_path}/texts', validation=f'{tmp_path}/held_out')
  assert list(own.texts('train')) == ['a']
  assert list(own.texts('validation')) == ['b']
