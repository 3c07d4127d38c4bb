"""Several processes as one program: started by an explicit flag only.

A process that was not told so never looks for others: on a misconfigured cluster that would make N
lonely runs out of one.
"""

import jax

from echoforge_jax.errors import InputError
from echoforge_jax.textio import first_line

_FLAGS = '--coordinator_address, --num_processes and --process_id'


def start(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  timeout_seconds: int = 300,
) -> None:
  """Joins this process with the others; before anything asks for devices.

  `coordinator_address` is HOST:PORT of process 0; None, with the next two: found from the cluster
  (Cloud TPU, GKE, Slurm, MPI).
  """
  given = (coordinator_address, num_processes, process_id)
  if any(value is not None for value in given):
    if any(value is None for value in given):
      raise InputError(
        f'{_FLAGS}: found {given}; wanted all three, or none '
        'where the cluster is known (Cloud TPU, GKE, Slurm)'
      )
    if ':' not in coordinator_address:
      raise InputError(
        f'--coordinator_address={coordinator_address}: wanted HOST:PORT of process 0'
      )
    if not 0 <= process_id < num_processes:
      raise InputError(
        f'--process_id={process_id}: wanted 0 to {num_processes - 1} of {num_processes} processes'
      )
  try:
    jax.distributed.initialize(
      coordinator_address, num_processes, process_id, initialization_timeout=timeout_seconds
    )
  except (RuntimeError, ValueError) as error:
    if given[0] is None:
      raise InputError(
        f'--multihost: no cluster was found ({first_line(error)}); '
        f'give {_FLAGS}, or leave --multihost out for a run of one process'
      ) from error
    raise InputError(
      f'--multihost: process {process_id} of {num_processes} could not join '
      f'{coordinator_address} ({first_line(error)}); start all processes '
      'with the same address, and let the port through the firewall'
    ) from error
  if num_processes is not None and jax.process_count() != num_processes:
    raise InputError(
      f'--num_processes={num_processes}: {jax.process_count()} processes joined; '
      'start each with another --process_id and the same accelerator software'
    )
