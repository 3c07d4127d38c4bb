"""python -m echoforge_jax VERB: a table of verbs, imported when asked for."""

import importlib
import os
import select
import sys

from echoforge_jax import __version__
from echoforge_jax.errors import InputError

VERBS = {
  'demo': 'phantom patients to a trained, evaluated model and a real clip',
  'phantom': "write synthetic patients in a provider's raw layout",
  'verify': 'check a raw dataset; exit 1 on errors',
  'prepare': 'raw dataset -> ArrayRecord',
  'train': 'train a config; resumes from its workdir',
  'evaluate': 'score a trained model: metrics, tables, figures, report',
  'segment': 'masks, overlay, areas and EF for any clip',
  'export': 'one file that runs with JAX alone, and its model card',
  'study': 'train and compare many runs, or count costs',
  'plan': 'whether and how fast a config would run on a TPU slice',
}
CLOSED = 141  # As the shell says it of a program that SIGPIPE ended.


def main(argv: list[str] | None = None) -> int:
  """Runs one verb; returns its exit status (0 well, 1 findings, 2 misuse, 141 output closed)."""
  if hasattr(sys.stdout, 'reconfigure'):  # Names of files may hold what its encoding lacks.
    sys.stdout.reconfigure(errors='backslashreplace')
  try:
    try:
      return _run(sys.argv[1:] if argv is None else argv)
    finally:
      if sys.stdout:
        sys.stdout.flush()  # Python itself would do it too late to be answered.
  except BrokenPipeError:
    # The pipe may be another, such as that of a worker.
    if not [number for number in (1, 2) if _has_lost_its_reader(number)]:
      raise
    return CLOSED


def _has_lost_its_reader(number: int) -> bool:
  """Tells whether nobody reads from an output any more, as after `head`; then drops the rest."""
  poll = select.poll()
  poll.register(number, 0)
  if not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
    return False
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, number)
  os.close(nowhere)
  return True


def _run(argv: list[str]) -> int:
  if not argv or argv[0] in ('-h', '--help', 'help'):
    verbs = '\n'.join(f'  {verb:<10}{text}' for verb, text in VERBS.items())
    print(f'echoforge {__version__}\n\nusage: echoforge VERB [flags]\n\n{verbs}')
    print('\nechoforge VERB --help lists its flags.')
    return 0 if argv else 2
  if argv[0] in ('-V', '--version'):
    print(__version__)
    return 0
  verb, *rest = argv
  if verb not in VERBS:
    print(f'error: unknown verb {verb!r}; choose one of {", ".join(VERBS)}', file=sys.stderr)
    return 2
  from absl import flags  # Grain reads absl flags; nobody else parses them.

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  command = importlib.import_module(f'echoforge_jax.commands.{verb}')
  try:
    return command.main(rest)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return 130


if __name__ == '__main__':
  sys.exit(main())
