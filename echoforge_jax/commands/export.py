"""echoforge export: one file that runs with JAX alone, and its model card."""

import argparse


def main(argv: list[str]) -> int:
  """Writes a file; returns 0."""
  parser = argparse.ArgumentParser(
    prog='echoforge export',
    allow_abbrev=False,
    description='Writes one file: serialized programs with the parameters inside, '
    'float32 and bfloat16, a whole clip and one step of a stream, for CPU, CUDA and '
    'TPU; and FILE.md, the model card. docs/examples/run_exported.py runs it with jax '
    'and numpy. A FILE.safetensors gets config and parameters alone, and stands '
    'wherever a checkpoint does.',
  )
  parser.add_argument(
    '--checkpoint',
    required=True,
    metavar='DIR',
    help='workdir of a training run, a .safetensors file, or default',
  )
  parser.add_argument('--out', required=True, metavar='FILE')
  parser.add_argument(
    '--which', choices=('teacher', 'student'), default='teacher', help='which parameters to use'
  )
  parser.add_argument(
    '--frames', type=int, default=10, metavar='T', help='of the clip programs (default: 10)'
  )
  parser.add_argument(
    '--metrics',
    metavar='PATH',
    help='metrics.json of an evaluation of this checkpoint, for the model card',
  )
  parser.add_argument(
    '--calibrate',
    action='store_true',
    help='of a .safetensors: fit the confidence on validation clips '
    '(phantoms drawn anew, or the prepared split)',
  )
  parser.add_argument(
    '--no_check', action='store_true', help='do not run the programs once to compare them'
  )
  args = parser.parse_args(argv)
  if args.calibrate and not args.out.endswith('.safetensors'):
    parser.error('--calibrate: wanted an --out that ends in .safetensors')
  from echoforge_jax.inference import export, receipt

  print(receipt.DISCLAIMER)
  if args.out.endswith('.safetensors'):
    export.export_network(
      args.checkpoint, args.out, which=args.which, metrics=args.metrics, calibrate=args.calibrate
    )
    return 0
  export.export_run(
    args.checkpoint,
    args.out,
    which=args.which,
    frames=args.frames,
    metrics=args.metrics,
    check=not args.no_check,
  )
  return 0
