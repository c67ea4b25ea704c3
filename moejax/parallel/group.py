"""The processes of a run, what they say to each other, and when one is lost.

JAX's collectives move arrays; this moves the rest: who is there, who waits,
after which step all stop, and why a run cannot go on. It needs no device, no
deadline is spent while process 0 works alone, and it goes on in a thread while
the main one computes or hangs.

| what happens to a process | how the others know |
|---|---|
| killed, crashed | its link closes, at once |
| its machine or network is gone, or it is frozen | silence for `deadline_s` |
| it ends with an error | it says so |

Whoever knows first tells process 0, process 0 tells all, and every process ends
with one line that names the lost one. If process 0 is lost, each sees it.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from moejax.core import errors
from moejax.parallel import alone, wire

T = TypeVar('T')
# A stop that a process asks for after step s is for all after step s + AHEAD.
# No process can be further than one step beyond another: to begin step n it has
# fetched the results of step n - 2, for which all had to compute that one.
AHEAD = 2
LOST, INTERRUPTED = 6, 75  # exit codes, see core/command.py
# When one process has failed: so long it waits for its own error, which is
# often the same and says it better.
GRACE_S = 1.5
END = 'the end'
LEAVE_S = 5.0  # so long process 0 waits for the others to go, at most


@dataclasses.dataclass(frozen=True)
class Members:
  """Who is in a run.

  Attributes:
    index: the number of this process.
    hosts: the machine of each process.
    links: process 0: a link to each other; the others: one to process 0.
  """

  index: int
  hosts: tuple[str, ...]
  links: dict[int, wire.Link]

  def name(self, index: int) -> str:
    return f'process {index} ({self.hosts[index]})'


class Group:
  """One process's view of a run of several; `close` it in the end.

  Args:
    members: who is there.
    deadline_s: of silence, after which a process is lost.
    leave: is given a line and an exit code when another process is lost; it
      ends this process and does not return.
  """

  def __init__(
    self,
    members: Members,
    deadline_s: float,
    leave: Callable[[str, int], None],
  ):
    self.index, self.count = members.index, len(members.hosts)
    self.members = members
    self._deadline_s = deadline_s
    self._leave = leave
    self._changed = threading.Condition()
    self._at: dict[str, set[int]] = {}  # process 0: who has come where
    self._given: dict[str, dict[int, Any]] = {}  # process 0: what to gather
    self._due: dict[str, tuple[float, float]] = {}  # until when, after how long
    self._open: dict[str, str | None] = {}  # what is open; or what went wrong
    self._values: dict[str, Any] = {}
    self._asked = collections.Counter[str]()
    self._stop: tuple[str, int] | None = None
    self._heard_stop: set[int] = set()
    self._agreed = False
    self._leaving = set[int]()  # said that they go
    self._last_word = threading.Lock()  # who holds it ends the process
    self._ending = threading.Event()
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._watch, name='moejax-group', daemon=True
    )
    self._thread.start()

  def first(self, name: str, work: Callable[[], T]) -> T:
    """`work` in process 0, and when that is done in the others.

    For what is slow once and quick afterwards, such as packing text. The others
    wait as long as process 0 lives.

    Args:
      name: used once in a run.
      work: without collectives.
    """
    if self.index == 0:
      done = work()
      self._tell({'open': name})
      return done
    self._wait(lambda: name in self._open)
    return work()

  def told(self, name: str, work: Callable[[], Any]) -> Any:
    """In all processes what `work` returns in process 0, as JSON has it."""
    name = self._numbered(name)
    if self.index == 0:
      self._tell({'open': name, 'value': work()})
    return self._answer(name)

  def gather(self, name: str, mine: Any) -> list[Any]:
    """In all processes what each gave, in their order, as JSON has it."""
    name = self._numbered(name)
    self._up({'give': name, 'value': mine})
    return self._answer(name)

  def barrier(self, name: str, deadline_s: float | None = None) -> None:
    """Waits until all have come; without a deadline as long as they live.

    Raises:
      LostHostError: in all, and names those that had not come in time.
    """
    self._up({'at': name, 'deadline': deadline_s})
    # Process 0 says who is missing; GRACE_S later it must be missing itself.
    wait_s = None if deadline_s is None else deadline_s + GRACE_S
    if not self._wait(lambda: name in self._open, wait_s):
      raise errors.LostHostError(self._absent(name, deadline_s, [0]))
    if line := self._open[name]:
      raise errors.LostHostError(line)

  def agree(self, flag: str | None, step: int) -> str | None:
    """What asks all processes to stop after this step, or None.

    To be asked once for each step by every process. It costs nothing until one
    asks to stop; that one waits until all have heard of it.

    Args:
      flag: what asks this process to stop, if anything does.
      step: the number of the step.

    Example, AHEAD=2, SIGINT to process 1 in step 4:
      process 0  ... 4: None    5: None  6: 'SIGINT'
      process 1  ... 4: None    5: None  6: 'SIGINT'
    """
    if flag and self._stop is None:
      self._up({'stop': flag, 'step': step + AHEAD})
      self._wait(lambda: self._agreed)
    stop = self._stop
    return stop[0] if stop and step >= stop[1] else None

  def fail(self, line: str, code: int) -> None:
    """Tells the others why this process ends; they end too. To exit after."""
    self._ending.set()
    self._take_last_word()
    if self.index:
      link = self.members.links[0]
      link.send({'failed': line, 'code': code})
      link.finish(LEAVE_S)
      return
    self._down({'lost': self._failed(0, line), 'code': _code(code)})
    self._see_them_off()

  def close(self) -> None:
    """Waits for all, then lets go: from here on each may end when it likes."""
    self.barrier(END)

  def _absent(self, name: str, seconds: float, which: list[int]) -> str:
    names = ', '.join(self.members.name(index) for index in which)
    return (
      f'after {seconds:g} s {names} had not come to {name!r}; see what they '
      'wrote last'
    )

  def _failed(self, index: int, line: str) -> str:
    return f'{self.members.name(index)} stopped: {line}'

  def _numbered(self, name: str) -> str:
    """The same in all, who ask the same in the same order."""
    self._asked[name] += 1
    return f'{name}, question {self._asked[name]}'

  def _answer(self, name: str) -> Any:
    """What is opened with a name; not kept, as a run asks very often."""
    self._wait(lambda: name in self._open)
    del self._open[name]
    return self._values.pop(name)

  # Messages.

  def _up(self, message: wire.Message) -> None:
    """To process 0, which may be this one."""
    if self.index:
      self.members.links[0].send(message)
    else:
      self._take(0, message)

  def _down(self, message: wire.Message) -> None:
    for link in list(self.members.links.values()):
      link.send(message)

  def _tell(self, message: wire.Message) -> None:
    """From process 0 to all, itself included."""
    if message.get('open') == END:
      self._closed.set()  # whom it reaches may be gone at once
    self._down(message)  # first: process 0 may be gone once it has heard it
    self._take(0, message)

  def _wait(
    self, done: Callable[[], bool], seconds: float | None = None
  ) -> bool:
    until = None if seconds is None else time.monotonic() + seconds
    with self._changed:
      while not done():
        left = 1.0 if until is None else until - time.monotonic()
        if left <= 0:
          return False
        self._changed.wait(min(left, 1.0))  # so that Ctrl-C is heard
    return True

  def _take(self, who: int, message: wire.Message) -> None:
    """Does what a message says."""
    for word in message:
      if act := _ACTS.get(word):
        act(self, who, message)
        with self._changed:
          self._changed.notify_all()

  def _came(self, who: int, message: wire.Message) -> None:
    name = message['at']
    self._at.setdefault(name, set()).add(who)
    if message['deadline'] is not None:
      until = time.monotonic() + message['deadline']
      self._due.setdefault(name, (until, message['deadline']))
    if len(self._at[name]) == self.count:
      self._due.pop(name, None)
      self._tell({'open': name})

  def _gave(self, who: int, message: wire.Message) -> None:
    name = message['give']
    given = self._given.setdefault(name, {})
    given[who] = message['value']
    # Two threads may both find it complete; one takes it.
    if len(given) == self.count and self._given.pop(name, None):
      everything = [given[index] for index in range(self.count)]
      self._tell({'open': name, 'value': everything})

  def _opened(self, _: int, message: wire.Message) -> None:
    self._values.setdefault(message['open'], message.get('value'))
    self._open.setdefault(message['open'], message.get('error'))
    if END in self._open:
      self._closed.set()

  def _asked_to_stop(self, _: int, message: wire.Message) -> None:
    if self.index:
      self._stop = (message['stop'], message['step'])
      self._up({'heard': True})
    elif self._stop is None:  # else another was first, and that one counts
      self._stop = (message['stop'], message['step'])
      self._down(message)
      self._heard(0, message)

  def _heard(self, who: int, _: wire.Message) -> None:
    self._heard_stop.add(who)
    if len(self._heard_stop) == self.count:
      self._tell({'agreed': True})

  def _all_heard(self, _: int, message: wire.Message) -> None:
    self._agreed = message['agreed']

  def _other_failed(self, who: int, message: wire.Message) -> None:
    self._leaving.add(who)
    line, code = self._failed(who, message['failed']), _code(message['code'])
    self._end(line, code, GRACE_S)

  def _told_of_loss(self, _: int, message: wire.Message) -> None:
    self._end(message['lost'], message['code'], GRACE_S)

  # The end.

  def _end(self, line: str, code: int, grace_s: float = 0.0) -> None:
    """In the thread: ends this process, unless it is about to do so itself."""
    if not self.index:
      self._down({'lost': line, 'code': code})
    if self._ending.wait(grace_s):
      return
    self._take_last_word()
    if not self.index:
      self._see_them_off()
    self._leave(line, code)

  def _take_last_word(self) -> None:
    self._last_word.acquire()  # never released

  def _see_them_off(self) -> None:
    """Process 0 keeps JAX's service, and without it JAX ends the others."""
    until = time.monotonic() + LEAVE_S
    links = [*self.members.links.values()]
    while (links := [x for x in links if x.fileno() >= 0]) and (
      left := until - time.monotonic()
    ) > 0:
      for link in wire.ready(links, left):
        if link.receive() is None:
          link.close()

  # The thread.

  def _watch(self) -> None:
    period = min(5.0, self._deadline_s / 5)
    links = dict(self.members.links)
    beat_at = seen_at = 0.0
    while links and not (self._closed.is_set() or self._ending.is_set()):
      now = time.monotonic()
      if now - seen_at > 2 * period:  # it is this process that was asleep
        for link in links.values():
          link.heard = now
      seen_at = now
      if now - beat_at >= period:
        self._down({'beat': True})
        beat_at = now
      numbers = {link: index for index, link in links.items()}
      for link in wire.ready([*numbers], min(period / 2, 0.5)):
        self._read(numbers[link], link, links)
      self._check_silence(links)
      self._check_barriers()

  def _read(self, who: int, link: wire.Link, links: dict[int, Any]) -> None:
    messages = link.receive()
    if messages is None:
      del links[who]
      link.close()
      if not (self._closed.is_set() or who in self._leaving):
        self._lose(who, 'was killed, or has crashed')
      return
    for message in messages:
      self._take(who, message)

  def _check_silence(self, links: dict[int, wire.Link]) -> None:
    now = time.monotonic()
    for who, link in links.items():
      if now - link.heard > self._deadline_s and not self._closed.is_set():
        self._lose(who, f'has been silent for {self._deadline_s:g} s')

  def _check_barriers(self) -> None:
    for name, (until, seconds) in list(self._due.items()):
      if time.monotonic() > until and name in self._due:
        del self._due[name]
        missing = sorted({*range(self.count)} - self._at[name])
        line = self._absent(name, seconds, missing)
        self._tell({'open': name, 'error': line})

  def _lose(self, who: int, what: str) -> None:
    line = (
      f'{self.members.name(who)} {what}; the last checkpoint is whole: start '
      'all processes again'
    )
    self._end(line, LOST)


AnyGroup = Group | alone.Alone


def _code(code: int) -> int:
  return INTERRUPTED if code == INTERRUPTED else LOST


_ACTS: dict[str, Callable[[Group, int, wire.Message], None]] = {
  'at': Group._came,
  'give': Group._gave,
  'open': Group._opened,
  'stop': Group._asked_to_stop,
  'heard': Group._heard,
  'agreed': Group._all_heard,
  'failed': Group._other_failed,
  'lost': Group._told_of_loss,
}
