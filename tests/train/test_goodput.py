"""Seconds by part, over several processes; the clock is a hand-moved one."""

import json

import pytest

from moejax.train import goodput
from moejax.train.goodput import Goodput


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now

  def spend(self, found, **seconds):
    """So many seconds in each part; start_up is what is open anyway."""
    for name, value in seconds.items():
      if name == 'start_up':
        self.now += value
        continue
      with found.part(name):
        self.now += value


def test_a_second_is_in_the_innermost_part_alone():
  clock = Clock()
  found = Goodput(clock=clock, began=97.0)  # three seconds of imports
  clock.now += 1
  with found.part('step'):
    clock.now += 10
    with found.part('save'):
      clock.now += 2
    clock.now += 5
  seconds = found.seconds()
  assert (seconds['start_up'], seconds['step'], seconds['save']) == (4, 15, 2)
  assert list(seconds) == list(goodput.PARTS)
  values = found.values()
  assert values['time/goodput/step_s'] == 15
  assert values['time/goodput/share'] == pytest.approx(15 / 21)
  assert sum(seconds.values()) == 21


def test_a_part_ends_with_an_error_too():
  clock = Clock()
  found = Goodput(clock=clock)

  def fail():
    with found.part('step'):
      clock.now += 3
      raise KeyError

  with pytest.raises(KeyError):
    fail()
  clock.now += 1
  assert found.seconds()['step'] == 3
  assert found.seconds()['start_up'] == 1


def test_what_is_taken_again_is_lost_once(tmp_path):
  """Killed after step 20; goes on from 10; killed again before any line."""
  path, records = tmp_path / 'goodput.json', []
  clock = Clock()
  first = Goodput(path, clock=clock)
  first.resume(0, [])
  clock.spend(first, start_up=2, compile=3, step=5, data_wait=1)
  records.append({'step': 10, **first.values()})
  records.append({'step': 10, 'eval/loss': 1.0})  # tells no seconds
  clock.spend(first, save=1)
  first.keep()
  clock.spend(first, step=4, data_wait=2)
  records.append({'step': 20, **first.values()})
  # What follows no line tells of.
  clock.spend(first, step=100)

  for starts in (2, 3):
    clock = Clock()
    later = Goodput(path, clock=clock)
    clock.spend(later, start_up=2, restore=1)
    later.resume(10, records)
    seconds = later.seconds()
    assert (seconds['step'], seconds['data_wait'], seconds['lost']) == (5, 1, 6)
    assert (seconds['compile'], seconds['save']) == (3, 1)
    assert seconds['start_up'] == 2 * starts
    assert seconds['restore'] == starts - 1
    assert json.loads(path.read_text())['starts'] == starts
    records = [r for r in records if r['step'] <= 10]


def test_a_file_that_cannot_be_read_or_written_stops_nothing(tmp_path):
  path = tmp_path / 'goodput.json'
  for text in ('', '{"starts": 1', '[]', '{"seconds": {"step": "x"}}'):
    path.write_text(text)
    found = Goodput(path)
    found.resume(3, [{'step': 3, 'time/goodput/step_s': 7.0}])
    assert found.seconds()['step'] == 7
  found = Goodput(tmp_path / 'no' / 'goodput.json')
  found.keep()
  assert not (tmp_path / 'no').exists()


def test_the_table():
  seconds = dict.fromkeys(goodput.PARTS, 0.0) | {'step': 90.0, 'lost': 10.0}
  head, one, share = goodput.table(seconds, 2)
  assert head.split() == ['seconds', 'in', *goodput.PARTS]
  assert one.split()[:3] == ['of', '2', 'starts']
  assert one.split()[-1] == '10.0'
  assert share.split()[-4:] == ['90%', '0%', '0%', '10%']
  assert len(head) == len(one) == len(share)
  assert goodput.table(seconds, 1)[1].startswith('of 1 start ')


def test_the_age_of_this_process():
  assert 0 < goodput.process_age() < 1e6
