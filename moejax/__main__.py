"""The command `moejax`, which is `python -m moejax` too."""

from moejax.shell import dispatch


def main() -> None:
  """Runs the command that the arguments name, and ends the process."""
  dispatch.start()


if __name__ == '__main__':
  main()
