import json
import os
import re
import subprocess
import sys

import jax

from moejax.core import versions


def test_versions_say_what_ran_and_not_where(monkeypatch):
  found = versions.versions()
  assert found['packages']['jax'] == jax.__version__
  assert found['python'] == '.'.join(map(str, sys.version_info[:3]))
  assert found['devices'] == {
    'backend': 'cpu',
    'kind': 'cpu',
    'count': 8,
    'processes': 1,
  }
  assert os.uname().nodename not in json.dumps(found)


def git(folder, *args):
  subprocess.run(
    ['git', '-c', 'user.name=a', '-c', 'user.email=a@b', *args],
    cwd=folder,
    check=True,
    capture_output=True,
  )


def test_git_state_of_a_checkout_and_beside_one(tmp_path):
  (tmp_path / 'code').mkdir()
  (tmp_path / 'other').mkdir()
  (tmp_path / 'code' / 'x.py').write_text('a')
  assert versions.git_state(tmp_path / 'code') is None
  git(tmp_path, 'init')
  git(tmp_path, 'add', 'code')
  assert versions.git_state(tmp_path / 'code') is None  # nothing committed
  git(tmp_path, 'commit', '-m', 'x')
  state = versions.git_state(tmp_path / 'code')
  assert re.fullmatch('[0-9a-f]{40}', state['commit'])
  assert state['changed'] is False
  (tmp_path / 'code' / 'x.py').write_text('b')
  assert versions.git_state(tmp_path / 'code')['changed'] is True
  # A folder inside a repository that does not track it.
  (tmp_path / 'other' / 'x.py').write_text('a')
  assert versions.git_state(tmp_path / 'other') is None


def test_git_state_without_git(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert versions.git_state(tmp_path) is None
