"""All that is to be measured on a GPU or TPU, in one command of eight minutes.

  python -m benchmarks.accelerator
  python -m benchmarks.accelerator --out=runs/dry --tiny     on any machine

Runs these sections, each in a process of its own, within --seconds:

  correctness      every grouped matmul and attention against float64
  kernels          their speed side by side, with output head and loss
  expert_parallel  every kind, if there are several devices
  step             a training step of DeepSeekMoE 2B in bfloat16
  peer             the same step beside transformers, if it is installed

Needs jax, flax, optax and orbax alone: no SeqIO, TensorFlow or ml-collections.
The folder has `rows.jsonl`, one line for each thing measured, from the moment
that it is measured; `results.json` with all of them and the machine; and
`page.md`, the tables for docs/benchmarks.md. A section that fails or takes too
long leaves a row that says so, and the next one begins.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import accelerator_sections as sections
from benchmarks import peers, standard
from moejax.core import command, exits, files

# JAX takes three quarters of a GPU's memory; the step needs more of an H200's.
# Set where the user has not.
ENVIRONMENT = {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.94'}
ROWS, RESULTS, PAGE = 'rows.jsonl', 'results.json', 'page.md'
# Of the time that is left, a section may take so much.
SHARE = {
  'correctness': 0.25,
  'kernels': 0.4,
  'expert_parallel': 0.3,
  'step': 0.5,
  'peer': 1.0,
}
# What a table of a section shows, in this order, of the rows that have it.
COLUMNS = {
  'correctness': ('name', 'case', 'error', 'allowed', 'ok'),
  'kernels': ('job', 'name', 'ms', 'tflops'),
  'expert_parallel': ('name', 'ms'),
  'step': ('name', 'rows', 'tokens_per_s', 'mfu', 'of_matmul', 'peak_mb'),
  'peer': ('name', 'best', 'median', 'peak_mb', 'what'),
}


def main(argv: Sequence[str]) -> None:
  """Reads the flags and measures."""
  flags = command.parser(__doc__)
  flags.add_argument(
    '--out',
    default='runs/accelerator',
    help='folder for the results (default: %(default)s)',
  )
  flags.add_argument(
    '--tiny', action='store_true', help='tiny shapes, to try the command'
  )
  flags.add_argument(
    '--seconds',
    type=command.number(int, 10),
    default=480,
    help='for all sections (default: %(default)s)',
  )
  flags.add_argument(
    '--peer_python', default=sys.executable, help='a Python that has the peer'
  )
  flags.add_argument(
    '--section',
    choices=sorted(sections.SECTIONS),
    help='(runs one section in this process)',
  )
  args = standard.parse(flags, argv)
  out = pathlib.Path(args.out)
  files.check_writable(out, '--out')
  if args.section:
    _run_section(args, out)
    return
  if args.peer_python != sys.executable:
    peers.check_python(
      args.peer_python, peers.PEERS['transformers'].needs, 'the section peer'
    )
  (out / ROWS).write_text('')  # of this call alone
  _run_all(argv, args, out)


def _run_section(args: Any, out: pathlib.Path) -> None:
  def record(**row: Any) -> None:
    _append(out, {'section': args.section, **row})

  task = sections.Task(
    sections.TINY if args.tiny else sections.FULL, args.peer_python, record
  )
  sections.SECTIONS[args.section](task)


def _run_all(argv: Sequence[str], args: Any, out: pathlib.Path) -> None:
  until = time.monotonic() + args.seconds
  for name in sections.SECTIONS:
    limit = (until - time.monotonic()) * SHARE[name]
    begin = time.monotonic()
    problem = _process([*argv, f'--section={name}'], limit)
    took = time.monotonic() - begin
    if problem:
      _append(out, {'section': name, 'failed': problem})
    _append(out, {'section': name, 'seconds': round(took, 1)})
    rows = _read(out)
    files.atomic_write_json(out / RESULTS, rows)
    files.atomic_write_text(out / PAGE, page(rows))
    print(f'{name}: {problem or "done"} ({took:.0f} s)', flush=True)
  print(page(_read(out)))


def _process(argv: Sequence[str], limit: float) -> str:
  """Runs a section; returns why it failed, '' if it did not."""
  try:
    done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.accelerator', *argv],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      timeout=limit,
      env={**ENVIRONMENT, **os.environ},
      check=False,
    )
  except subprocess.TimeoutExpired:
    return f'stopped after {limit:.0f} s'
  lines = done.stderr.strip().splitlines() or ['no error was printed']
  return f'code {done.returncode}: {lines[-1][:300]}' if done.returncode else ''


def _append(out: pathlib.Path, row: dict[str, Any]) -> None:
  with (out / ROWS).open('a', encoding='utf-8') as rows:
    rows.write(json.dumps(row) + '\n')


def _read(out: pathlib.Path) -> list[dict[str, Any]]:
  text = (out / ROWS).read_text(encoding='utf-8')
  return [json.loads(line) for line in text.splitlines()]


def page(rows: Sequence[dict[str, Any]]) -> str:
  """The tables of all sections, in Markdown.

  Args:
    rows: what was recorded. A row with `note`, `failed` or `seconds` is a line
      below its section's table.
  """
  text = ''
  for section, names in COLUMNS.items():
    own = [row for row in rows if row['section'] == section]
    if not own:
      continue
    text += f'### {section.replace("_", " ")}\n\n'
    table = [row for row in own if 'name' in row]
    if table:
      shown = [n for n in names if any(n in row for row in table)]
      text += f'| {" | ".join(shown)} |\n|{"---|" * len(shown)}\n'
      for row in table:
        cells = [_cell(row.get(name)) for name in shown]
        text += f'| {" | ".join(cells)} |\n'
      text += '\n'
    for row in own:
      for kind in ('note', 'failed', 'seconds'):
        if kind in row:
          text += f'- {kind}: {row[kind]}\n'
    text += '\n'
  return text.rstrip() + '\n'


def _cell(value: Any) -> str:
  if value is None:
    return '-'
  if isinstance(value, float):
    return f'{value:.3g}' if abs(value) < 1000 else f'{value:,.0f}'
  return str(value).replace('|', '\\|')


if __name__ == '__main__':
  exits.main(main)
