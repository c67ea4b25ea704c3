"""Where the time of profiled steps goes, in words and by part of the model.

  Steps 21 to 25 took 412 ms each. The devices computed in 93% of that time.
  Of the computing, 38% is routed experts, 22% attention, 17% output head and
  loss; 61% is the backward pass, 9% is computed a second time for it.

Parts are those of `core.scopes`, read from the names of a program's operations.
What several devices do together is a part of its own.
"""

import collections
import dataclasses
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from moejax.core import scopes
from moejax.train import profile_ops
from moejax.train.profile_ops import Op

K = TypeVar('K', bound=Hashable)

STEP = 'jit_step'  # the program that `train.step` makes

BETWEEN, MOVED = 'between', 'moved'
OTHER, OUTSIDE = 'other', 'outside'
WORDS: Mapping[str, str] = {
  **scopes.PARTS,
  BETWEEN: 'between devices',
  MOVED: 'copies and slices of arrays',
  OTHER: 'anything else in the step',
  OUTSIDE: 'other programs, such as an evaluation',
}
FORWARD, BACKWARD, AGAIN = 'forward', 'backward', 'again'
PASSES = FORWARD, BACKWARD, AGAIN
_COLLECTIVES = re.compile(
  r'(all-(gather|reduce|to-all)|reduce-scatter|collective-(permute|broadcast)|'
  r'ragged-all-to-all)'
)
_MOVES = re.compile(
  r'(wrapped_)?(copy|slice|dynamic-|bitcast|concatenate|transpose|pad)'
)
_COMPUTATION = re.compile(r'(?:ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?(?P<name>[\w.-]+) = ')
_OP = re.compile(r'\bop_name="(?P<op>[^"]*)"')
_CALLS = re.compile(r'\bcalls=%?(?P<name>[\w.-]+)')
LONGEST, MOST_WORDS = 5, 4


@dataclasses.dataclass(frozen=True)
class Share:
  """The time of one operation, or of all of one part and pass.

  Attributes:
    part: a key of WORDS.
    moment: one of PASSES.
    seconds: of all devices together.
  """

  part: str
  moment: str
  seconds: float


@dataclasses.dataclass(frozen=True)
class Summary:
  """Where the time of some steps went.

  Attributes:
    first: number of the first step.
    last: number of the last step.
    seconds: from the begin of the first to the end of the last, without
      evaluations and checkpoints between them.
    paused: seconds of those.
    devices: number of devices in the profile.
    busy: part of the time in which a device computed these steps, mean over
      devices.
    shares: time by part and pass, the longest first.
    longest: the operations with most time: name, and its share.
  """

  first: int
  last: int
  seconds: float
  paused: float
  devices: int
  busy: float
  shares: list[Share]
  longest: list[tuple[str, Share]]

  def lines(self) -> list[str]:
    """The summary in words, and as a table."""
    count = self.last - self.first + 1
    took = f'{self.seconds / count * 1e3:,.3g} ms'
    steps = (
      f'Steps {self.first} to {self.last} took {took} each.'
      if count > 1
      else f'Step {self.first} took {took}.'
    )
    if self.paused:
      steps += (
        f' {self.paused:,.3g} s of evaluations and checkpoints between them '
        'are left out.'
      )
    total = sum(share.seconds for share in self.shares)
    if not total:
      return [f'{steps} The profile has no operation of a device.']
    devices = 'The device' if self.devices == 1 else 'A device'
    by_part = _sums((share.part, share.seconds) for share in self.shares)
    by_pass = _sums((share.moment, share.seconds) for share in self.shares)
    said = [
      f'{seconds / total:.0%} is {WORDS[part]}'
      for part, seconds in [*by_part.items()][:MOST_WORDS]
    ]
    passes = [f'{by_pass.get(BACKWARD, 0) / total:.0%} is the backward pass']
    if AGAIN in by_pass:
      share = f'{by_pass[AGAIN] / total:.0%}'
      passes.append(f'{share} is computed a second time for it')
    lines = [
      f'{steps} {devices} computed in {self.busy:.0%} of that time.',
      f'Of the computing, {", ".join(said)}; {", ".join(passes)}.',
      '',
      f'{"part":38} {"all":>6} {"forward":>8} {"backward":>9} {"again":>6}',
    ]
    for part, seconds in by_part.items():
      own = {s.moment: s.seconds for s in self.shares if s.part == part}
      cells = [f'{own.get(moment, 0) / total:.1%}' for moment in PASSES]
      lines.append(
        f'{WORDS[part]:38} {seconds / total:6.1%} {cells[0]:>8} '
        f'{cells[1]:>9} {cells[2]:>6}'
      )
    lines += ['', 'The longest operations:']
    lines += [
      f'{share.seconds / total:6.1%}  {name} ({WORDS[share.part]}, '
      f'{share.moment})'
      for name, share in self.longest
    ]
    return lines


def summarise(
  ops: list[Op],
  texts: Iterable[str],
  steps: tuple[int, int],
  seconds: float,
  paused: float = 0.0,
) -> Summary:
  """Sums the operations of a profile by part.

  Args:
    ops: of all devices, from `profile_ops`.
    texts: programs as text (HLO); the first line of each has its name.
    steps: numbers of the first and the last step.
    seconds: that they took together, without pauses between them.
    paused: seconds of evaluations and checkpoints between them, whose programs
      are left out then.
  """
  own = collections.Counter[str]()
  for op in ops:
    own[op.program] += int(op.own)
  longest_program = max(own, key=lambda program: own[program], default='')
  # An evaluation between the steps may take longer than they do.
  main = STEP if STEP in own else longest_program
  ran = {op.name for op in ops if op.program == main}
  named = _of_program(main, ran, texts)
  by_op = collections.defaultdict[str, float](float)
  outside = 0.0
  for op in ops:
    if op.program == main:
      by_op[op.name] += op.own / 1e9
    else:
      outside += op.own / 1e9
  found = {
    name: Share(*_place(name, named.get(name, '')), seconds=seconds)
    for name, seconds in by_op.items()
  }
  sums = _sums(
    ((share.part, share.moment), share.seconds) for share in found.values()
  )
  shares = [Share(*key, seconds=value) for key, value in sums.items()]
  if outside and not paused:
    shares.append(Share(OUTSIDE, FORWARD, outside))
  by_device = collections.defaultdict[int, list[Op]](list)
  for op in ops:
    by_device[op.device] += [op] if op.program == main else []
  busy = [profile_ops.busy(of) / 1e9 / seconds for of in by_device.values()]
  longest = sorted(found.items(), key=lambda item: -item[1].seconds)[:LONGEST]
  return Summary(
    first=steps[0],
    last=steps[1],
    seconds=seconds,
    paused=paused,
    devices=len(by_device),
    busy=min(1.0, sum(busy) / max(len(busy), 1)),
    shares=shares,
    longest=longest,
  )


def _of_program(
  main: str, ran: set[str], texts: Iterable[str]
) -> dict[str, str]:
  """`op_name` by instruction, of the program that ran.

  Of several with its name it is the smallest that has most of what ran.
  """
  named = (named for program, named in map(_named, texts) if program == main)
  fit = lambda names: (len(ran & names.keys()), -len(names))
  return max(named, key=fit, default={})


def _named(text: str) -> tuple[str, dict[str, str]]:
  """The name of a program, and `op_name` by instruction.

  A fusion without one has the first of a part among the instructions in it.
  """
  found: dict[str, str] = {}
  inside = collections.defaultdict[str, list[str]](list)
  calls: dict[str, str] = {}
  computation = ''
  for line in text.splitlines():
    if begins := _COMPUTATION.match(line):
      computation = begins['name']
    elif instruction := _INSTRUCTION.match(line):
      if op := _OP.search(line):
        found[instruction['name']] = op['op']
        inside[computation].append(op['op'])
      elif called := _CALLS.search(line):
        calls[instruction['name']] = called['name']
  for name, target in calls.items():
    ops = inside.get(target, [])
    found[name] = next((op for op in ops if scopes.part_of(op)), '')
  match = re.match(r'HloModule (?P<name>[\w.-]+)', text)
  return (match['name'] if match else ''), found


def _place(name: str, op_name: str) -> tuple[str, str]:
  """Part and pass of an instruction."""
  moment = FORWARD
  if 'rematted_computation' in op_name:
    moment = AGAIN
  elif 'transpose(' in op_name:
    moment = BACKWARD
  if _COLLECTIVES.match(name):
    return BETWEEN, moment
  if part := scopes.part_of(op_name):
    return part, moment
  return (MOVED if _MOVES.match(name) else OTHER), moment


def _sums(pairs: Iterable[tuple[K, float]]) -> dict[K, float]:
  """The sum of each key, the largest first."""
  sums = collections.defaultdict[K, float](float)
  for key, value in pairs:
    sums[key] += value
  return dict(sorted(sums.items(), key=lambda item: -item[1]))
