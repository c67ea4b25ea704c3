"""The benchmark of images."""

import re

import pytest

from benchmarks import images
from moejax.core import exits


@pytest.mark.soak
def test_three_rates_and_their_ratios_are_printed(capsys):
  assert exits.call(images.main, ['--images=2', '--rounds=1']) == exits.DONE
  *rates, last = capsys.readouterr().out.splitlines()
  found = [re.fullmatch(r'(.*\S) +([\d,]+) images/s', x) for x in rates]
  names = [match[1] for match in found]
  assert names == ['decode and prepare', 'read', 'train']
  decoded, read, train = (float(m[2].replace(',', '')) for m in found)
  (got,) = re.findall(r'read / train: ([\d.]+) ', last)
  assert float(got) == pytest.approx(read / train, rel=0.2)
  assert min(decoded, read, train) > 0
