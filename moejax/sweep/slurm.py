"""Sweeps on a cluster with Slurm: an array of jobs, one for each run.

A task of the array calls `moejax sweep --index=N`. Before its time is over, or
when it is preempted, it gets SIGTERM: its run saves its state, and the task
queues itself again, as tpu_scripts/slurm_gpu.sbatch does.
"""

import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence

from moejax.core import errors, files
from moejax.sweep import submitting

# In the workdir of the sweep; %A is the job, %a the index of the task.
SCRIPT, LOGS = 'slurm.sbatch', 'slurm-%A-%a.log'
RESTARTS = 100  # how often a task queues itself again
GRACE_S = 600  # time between SIGTERM and the end of a task, in seconds

TEMPLATE = """\
#!/usr/bin/env bash
# The sweep {name}, a run for each task of the array. Written by moejax sweep.
#SBATCH --job-name=moejax-{name}
#SBATCH --array={array}
#SBATCH --ntasks=1
#SBATCH --output={output}
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{grace}
#SBATCH --requeue
{options}
cd {place} || exit 2
code=0
srun --kill-on-bad-exit=0 {command} --index="$SLURM_ARRAY_TASK_ID" || code=$?
# 0 to 3: finished, or what trying again does not mend.
if ((code > 3 && ${{SLURM_RESTART_COUNT:-0}} < {restarts})); then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$code"
"""


def script(
  name: str,
  folder: str,
  words: Sequence[str],
  indices: Sequence[int],
  processes: int,
  options: str = '',
) -> str:
  """The text of the batch script.

  Args:
    name: of the sweep.
    folder: its workdir, which all nodes see.
    words: the flags of `moejax sweep` that name the sweep, its workdir and its
      overrides.
    indices: of the runs, in the list of the sweep.
    processes: how many run at a time.
    options: the user's own options of sbatch: '--partition=gpu --time=8:00:00'.

  Raises:
    InputError: the options are not whole words.
  """
  try:
    own = shlex.split(options)
  except ValueError as e:
    raise errors.InputError(f'--sbatch={options!r}: {e}') from e
  for word in own:
    if not word.startswith('-') or '\n' in word:
      raise errors.InputError(
        f'--sbatch={options!r}: {word!r} is no option; write an option and '
        'its value as one word, such as --time=8:00:00'
      )
  command = [sys.executable, '-m', 'moejax.cli.sweep', *words]
  text = TEMPLATE.format(
    name=name,
    array=f'{array(indices)}%{processes}',
    # sbatch gives % a meaning.
    output=_quoted(f'{os.path.abspath(folder).replace("%", "%%")}/{LOGS}'),
    grace=GRACE_S,
    options='\n'.join(f'#SBATCH {_quoted(word)}' for word in own),
    place=shlex.quote(os.getcwd()),
    command=shlex.join(command),
    restarts=RESTARTS,
  )
  return '\n'.join(line for line in text.splitlines() if line) + '\n'


def array(indices: Sequence[int]) -> str:
  """Indices as sbatch takes them. Example: 0, 1, 2, 5, 7, 8 are '0-2,5,7-8'."""
  parts: list[list[int]] = []
  for index in sorted(indices):
    if parts and index == parts[-1][-1] + 1:
      parts[-1].append(index)
    else:
      parts.append([index])
  return ','.join(
    str(part[0]) if len(part) == 1 else f'{part[0]}-{part[-1]}'
    for part in parts
  )


def submit(text: str, folder: str) -> str:
  """Gives a script to sbatch.

  Args:
    text: of the script, which is written to `slurm.sbatch` in
    folder: the workdir of the sweep.

  Returns:
    The id of the job.

  Raises:
    InputError: sbatch is not on the PATH, or refused the script.
  """
  sbatch = shutil.which('sbatch')
  if sbatch is None:
    raise errors.InputError(
      '--runner=slurm calls sbatch, which is not on the PATH: run this on a '
      'login node of the cluster, or add --dry_run to see the script'
    )
  path = pathlib.Path(folder) / SCRIPT
  files.atomic_write_text(path, text)
  shown = submitting.output(
    [sbatch, '--parsable', os.fspath(path)],
    f'sbatch refused {path}: ',
    '; --sbatch has your own options',
  )
  return shown.strip().partition(';')[0]


def _quoted(word: str) -> str:
  """A word of an #SBATCH line, which sbatch splits at blanks."""
  return f'"{word}"' if ' ' in word else word
