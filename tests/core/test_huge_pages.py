"""core/huge_pages.py: a process asks for huge pages where that helps."""

import os
import subprocess
import sys

import pytest

from moejax.core import huge_pages

MADVISE = 'always [madvise] never\n'
WANTED = 'glibc.malloc.hugetlb=1'

PROGRAM = f"""
import os, pathlib, platform, sys
from moejax.core import huge_pages
huge_pages.MODE = pathlib.Path(sys.argv[1])
platform.libc_ver = lambda: ('glibc', '2.36')
print(os.getpid(), sys.argv[2:], os.environ.get('{huge_pages.TUNABLES}'))
sys.stdout.flush()
huge_pages.restart()
print('goes on')
"""


@pytest.mark.parametrize(
  ('environment', 'libc', 'mode', 'tunables'),
  [
    ({}, 'glibc', MADVISE, WANTED),
    ({'GLIBC_TUNABLES': 'a=1'}, 'glibc', MADVISE, f'a=1:{WANTED}'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'}, 'glibc', MADVISE, None),
    ({}, 'musl', MADVISE, None),
    ({}, '', MADVISE, None),
    ({}, 'glibc', '[always] madvise never\n', None),
    ({}, 'glibc', 'always madvise [never]\n', None),
    ({}, 'glibc', '', None),
  ],
)
def test_huge_pages_are_asked_for_where_linux_leaves_it_to_programs(
  environment, libc, mode, tunables
):
  environment = {'HOME': '/h', **environment}
  changed = huge_pages.with_huge_pages(environment, libc, mode)
  wanted = (
    None if tunables is None else {**environment, 'GLIBC_TUNABLES': tunables}
  )
  assert changed == wanted


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux has huge pages')
@pytest.mark.parametrize('mode', [MADVISE, 'always madvise [never]\n'])
def test_the_same_command_starts_once_more_at_most(mode, tmp_path):
  file = tmp_path / 'enabled'
  file.write_text(mode)
  script = tmp_path / 'program.py'
  script.write_text(PROGRAM)
  env = {k: v for k, v in os.environ.items() if k != huge_pages.TUNABLES}
  done = subprocess.run(
    [sys.executable, str(script), str(file), 'a b', '--c'],
    env=env,
    capture_output=True,
    text=True,
    check=True,
  )
  *starts, last = done.stdout.splitlines()
  assert last == 'goes on'
  pid = starts[0].split()[0]
  first = f"{pid} ['a b', '--c'] None"
  again = f"{pid} ['a b', '--c'] {WANTED}"
  assert starts == ([first, again] if mode == MADVISE else [first])
