"""echoforge demo: phantom patients to a trained model and a real clip."""

import functools
import os
import sys

from echoforge_jax.commands import new_parser


def main(argv: list[str]) -> int:
  """Runs the demo; 130 if training was interrupted."""
  from echoforge_jax import demo

  parser = new_parser(
    'demo',
    'Makes phantom patients, verifies and prepares them, trains EchoForge lite, scores it on test '
    'patients and segments a real clip. The same command continues an interrupted demo.',
  )
  add, count = parser.add_argument, demo.NUM_PATIENTS
  add('--out', default='demo', metavar='DIR', help="a new folder, or an earlier demo's (demo)")
  add('--patients', type=int, default=count, metavar='N', help=f'({count})')
  add('--seed', type=int, default=0)
  add('--steps', type=int, metavar='N', help="training steps (the config's)")
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
