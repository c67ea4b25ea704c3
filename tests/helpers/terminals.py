"""A terminal that wraps its lines again when its width changes."""

import re

CODES = re.compile(r'\x1b\[([0-9;?]*)([a-zA-Z])|([\r\n])|(.)', re.DOTALL)


class Terminal:
  """Rows of cells, of which some go on in the next; and a cursor.

  With another width the rows of each line are cut anew, as VTE, kitty, iTerm2,
  Windows Terminal and tmux do it.
  """

  def __init__(self, width):
    self.width = width
    self.rows, self._goes_on = [''], [False]
    self.row = self.column = 0

  def write(self, text):
    for code, kind, move, char in CODES.findall(text):
      if char:
        self._put(char)
      elif move == '\r':
        self.column = 0
      elif move:
        self._down()
      elif kind == 'A':
        self.row = max(0, self.row - int(code or 1))
      elif kind == 'K':
        assert code == '2'
        self.rows[self.row], self._goes_on[self.row] = '', False
      else:
        assert kind in 'hlm', kind  # the cursor's look, and colours

  def resize(self, width):
    lines, goes_on = [], False
    for at, (row, goes_on_after) in enumerate(
      zip(self.rows, self._goes_on, strict=True)
    ):
      if not goes_on:
        lines.append('')
      if at == self.row:
        cursor = len(lines) - 1, len(lines[-1]) + self.column
      lines[-1] += row
      goes_on = goes_on_after
    self.width, self.rows, self._goes_on = width, [], []
    for number, line in enumerate(lines):
      parts = [
        line[at : at + width] for at in range(0, max(1, len(line)), width)
      ]
      if number == cursor[0]:
        down = min(cursor[1] // width, len(parts) - 1)
        self.row = len(self.rows) + down
        self.column = cursor[1] - down * width
      self.rows += parts
      self._goes_on += [True] * (len(parts) - 1) + [False]

  def shown(self):
    """The rows, without blanks at their ends, to the last that is not blank."""
    rows = [row.rstrip() for row in self.rows]
    while rows and not rows[-1]:
      rows.pop()
    return rows

  def _put(self, char):
    if self.column >= self.width:
      self._goes_on[self.row] = True
      self._down()
    row = self.rows[self.row].ljust(self.column)
    self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
    self.column += 1

  def _down(self):
    """To the first cell of the next row, as a terminal in cooked mode does."""
    self.row, self.column = self.row + 1, 0
    if self.row == len(self.rows):
      self.rows.append('')
      self._goes_on.append(False)
