"""echoforge demo: phantom patients to a trained model and a real clip."""

import argparse
import functools
import os
import sys


def main(argv: list[str]) -> int:
  """Runs the demo; 130 if training was interrupted."""
  from echoforge_jax import demo

  parser = argparse.ArgumentParser(
    prog='echoforge demo',
    allow_abbrev=False,
    description='Makes phantom patients, verifies and prepares them, trains '
    'EchoForge lite, scores it on test patients and segments a real clip. '
    'The same command continues an interrupted demo.',
  )
  parser.add_argument(
    '--out', default='demo', metavar='DIR', help="a new folder, or an earlier demo's (demo)"
  )
  parser.add_argument(
    '--patients', type=int, default=demo.NUM_PATIENTS, metavar='N', help=f'({demo.NUM_PATIENTS})'
  )
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--steps', type=int, metavar='N', help="training steps (the config's)")
  args = parser.parse_args(argv)
  if args.steps is not None and args.steps < 1:
    parser.error(f'--steps={args.steps}: wanted at least 1')
  from echoforge_jax.parallel import mesh

  mesh.split_cpu(demo.CPU_DEVICES)
  done = demo.run_demo(
    args.out,
    num_patients=args.patients,
    seed=args.seed,
    num_steps=args.steps,
    say=functools.partial(print, flush=True),
    num_workers=min(4, os.cpu_count() or 1) - 1,
    progress=sys.stderr.isatty(),
  )
  return 130 if done.interrupted else 0
