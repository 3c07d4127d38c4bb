"""train --config=configs/X.py[:arg] --workdir=DIR [--config.field=value]."""

import sys

from echoforge_jax.commands import new_parser
from echoforge_jax.config import parse_config
from echoforge_jax.errors import InputError

_EPILOG = """\
--config=FILE[:ARG] takes a file or a name such as camus_echoforge, and
--config.optimizer.learning_rate=3e-4 sets any field of it. The same command
continues a run that was interrupted, bit for bit. exit status: 0 done,
1 diverged (loss not finite), 2 misuse, 3 a checkpoint could not be written,
143 stopped by SIGTERM and 130 by SIGINT, both with a checkpoint.
"""


def main(argv: list[str]) -> int:
  """Trains; 0 done, 1 diverged, 3 not saved, 128 + n stopped by signal n."""
  usage = 'echoforge train --config=FILE[:ARG] --workdir=DIR [--config.FIELD=VALUE ...]'
  text = 'Trains a config; resumes from its workdir.'
  parser = new_parser('train', text, epilog=_EPILOG, usage=usage)
  add = parser.add_argument
  text = 'config, checkpoints and metrics of the run'
  add('--workdir', required=True, metavar='DIR', help=text)
  text = 'one of several processes that train together; '
  text += 'finds the others on Cloud TPU, GKE and Slurm'
  add('--multihost', action='store_true', help=text)
  add('--coordinator_address', metavar='HOST:PORT', help='elsewhere: of process 0')
  add('--num_processes', type=int, metavar='N', help='elsewhere: how many there are')
  add('--process_id', type=int, metavar='I', help='elsewhere: which of them this is, from 0')
  arguments, rest = parser.parse_known_args(argv)
  config = parse_config(rest)
  place = (arguments.coordinator_address, arguments.num_processes, arguments.process_id)
  if not arguments.multihost and place != (None, None, None):
    raise InputError(
      '--coordinator_address, --num_processes and --process_id '
      'say where a process belongs that has --multihost; add it'
    )

  import jax

  from echoforge_jax.parallel import mesh, multihost
  from echoforge_jax.training import checkpoint, loop
  from echoforge_jax.training.workdir import workdir_path

  mesh.split_cpu(config.cpu_devices)
  if arguments.multihost:
    multihost.start(*place)
  if config.compilation_cache:
    jax.config.update(
      'jax_compilation_cache_dir', str(workdir_path(arguments.workdir) / 'compilation_cache')
    )
  try:
    outcome = loop.train(config, arguments.workdir)
  except (loop.DivergenceError, checkpoint.SaveError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1 if isinstance(error, loop.DivergenceError) else 3
  return 128 + outcome.signal if outcome.signal else 0
