#!/usr/bin/env python3
"""Runs a verb in several processes of this machine, as a cluster would.

usage: python launch/local.py --processes=2 --devices=2 -- train FLAGS

Every process is `python -m echoforge_jax train --multihost ...` with a CPU that
is split into `--devices` devices. A SIGTERM goes on to all of them: they agree
on a step, save and stop. So does Ctrl-C, as SIGTERM, since several processes
agree on that alone. A second one kills them. Where one process fails, the
others get `--grace` seconds to end by themselves.

exit status: 0 where all processes end with 0, otherwise that of the first one
that failed (128 + n where signal n ended it); 2 misuse.
"""

import argparse
from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from echoforge_jax.experiments import processes  # noqa: E402

# Flags that this launcher sets.
OWN_FLAGS = (
  '--multihost',
  '--coordinator_address',
  '--num_processes',
  '--process_id',
  '--config.cpu_devices',
)
_NO_VERB = 'no verb after --, such as: -- train --config=FILE --workdir=DIR'
KILL_AFTER = 10.0  # Seconds between SIGTERM and SIGKILL of processes whose grace is over.
POLL = 0.05


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns the launcher's flags and [verb, *its flags]; ends with status 2 on misuse."""
  own, mark, rest = _split(list(argv))
  parser = argparse.ArgumentParser(
    prog='launch/local.py',
    allow_abbrev=False,
    usage='python launch/local.py [--processes=N] [--devices=D] [--port=P] '
    '[--grace=SECONDS] [--dry_run] -- VERB [FLAGS]',
    description='Runs a verb in several processes of this machine.',
  )
  parser.add_argument('--processes', type=int, default=2, metavar='N')
  parser.add_argument('--devices', type=int, default=1, metavar='D', help='CPU devices a process')
  parser.add_argument(
    '--port', type=int, default=0, metavar='P', help='of the coordinator; 0: a free one'
  )
  parser.add_argument(
    '--grace',
    type=float,
    default=30,
    metavar='SECONDS',
    help='how long the others may go on after a failure',
  )
  parser.add_argument('--dry_run', action='store_true', help='print the commands only')
  if not mark and not {'-h', '--help'} & set(own):
    parser.error(_NO_VERB)
  args = parser.parse_args(own)
  for name in ('processes', 'devices'):
    if getattr(args, name) < 1:
      parser.error(f'--{name} is {getattr(args, name)}, wanted at least 1')
  if not 0 <= args.port < 65536:
    parser.error(f'--port is {args.port}, wanted 1 to 65535, or 0 for any')
  if args.grace < 0:
    parser.error(f'--grace is {args.grace}, wanted seconds')
  if not rest or rest[0].startswith('-'):
    parser.error(_NO_VERB)
  for flag in rest:
    if flag.partition('=')[0] in OWN_FLAGS:
      parser.error(
        f'{flag} is set by this launcher; use --processes, --devices and --port before the --'
      )
  return args, rest


def _split(argv: list[str]) -> tuple[list[str], bool, list[str]]:
  if '--' not in argv:
    return argv, False, []
  at = argv.index('--')
  return argv[:at], True, argv[at + 1 :]


def free_port() -> int:
  """Returns a TCP port that nobody listens on just now."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def make_commands(args: argparse.Namespace, rest: Sequence[str]) -> list[list[str]]:
  """Returns the command of every process; a single one needs no coordinator."""
  port = args.port or free_port()
  verb, *flags = rest
  python, devices = [sys.executable, '-m', 'echoforge_jax'], f'--config.cpu_devices={args.devices}'
  commands = []
  for process in range(args.processes):
    cluster = [
      '--multihost',
      f'--coordinator_address=127.0.0.1:{port}',
      f'--num_processes={args.processes}',
      f'--process_id={process}',
    ]
    commands.append([*python, verb, *(cluster if args.processes > 1 else []), *flags, devices])
  return commands


def environment() -> dict[str, str]:
  """Returns this environment, with the CPU as device and this code importable."""
  env = dict(os.environ, PYTHONUNBUFFERED='1')
  env.setdefault('JAX_PLATFORMS', 'cpu')
  env['PYTHONPATH'] = os.pathsep.join([str(ROOT), *filter(None, [env.get('PYTHONPATH')])])
  return env


def run(commands: Sequence[list[str]], grace: float) -> int:
  """Runs the commands side by side until all have ended; returns the launcher's exit status.

  After one has failed, the others may go on for `grace` seconds.
  """
  several = len(commands) > 1
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT} if several else {}
  running, readers = [], []
  with processes.StopSignals() as signals:
    try:
      for command in commands:
        running.append(processes.spawn(command, env=environment(), **pipes))
      lock = threading.Lock()
      for index, child in enumerate(running if several else ()):
        readers.append(
          threading.Thread(target=_copy_lines, args=(child, f'[{index}] ', lock), daemon=True)
        )
        readers[-1].start()
      return _wait(running, signals, grace)
    finally:
      for child in running:
        processes.kill(child)
      for reader in readers:
        reader.join(timeout=5)


def _copy_lines(child: subprocess.Popen, prefix: str, lock: threading.Lock) -> None:
  for line in child.stdout:
    text = prefix + line.decode(errors='replace').rstrip('\n') + '\n'
    # A reader that went away (`| head`) must not stop the training.
    with lock, contextlib.suppress(BrokenPipeError):
      sys.stdout.write(text)
      sys.stdout.flush()


def _say(text: str) -> None:
  print(f'local.py: {text}', file=sys.stderr, flush=True)


def _wait(running: Sequence[subprocess.Popen], signals: processes.StopSignals, grace: float) -> int:
  """Waits for all; returns the status of the first that failed, or 0."""
  statuses: dict[int, int] = {}
  handled, failed, deadline, terminated = 0, 0, None, False
  while True:
    for index, child in enumerate(running):
      if index in statuses or (status := processes.status(child)) is None:
        continue
      statuses[index] = status
      if status and not failed:
        failed, deadline = status, time.monotonic() + grace
        if len(running) > 1:
          _say(f'process {index} ended with status {status}; the others have {grace:g} s to end')
    left = [child for index, child in enumerate(running) if index not in statuses]
    if not left:
      return failed
    for number in signals.received[handled:]:
      handled += 1
      for child in left:
        if handled == 1:
          child.send_signal(signal.SIGTERM if len(running) > 1 else number)
        else:
          processes.kill(child)
    if deadline is not None and time.monotonic() > deadline:
      for child in left:
        if terminated:
          processes.kill(child)
        else:
          child.send_signal(signal.SIGTERM)
      terminated, deadline = True, time.monotonic() + KILL_AFTER
    time.sleep(POLL)


def main(argv: Sequence[str] | None = None) -> int:
  """Parses, then prints or runs."""
  args, rest = parse(sys.argv[1:] if argv is None else argv)
  commands = make_commands(args, rest)
  if args.dry_run:
    for command in commands:
      print(shlex.join(command))
    return 0
  return run(commands, args.grace)


if __name__ == '__main__':
  sys.exit(main())
