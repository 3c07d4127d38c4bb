"""echoforge export: one file that runs with JAX alone, and its model card."""

from echoforge_jax.commands import STEP_HELP, new_parser


def main(argv: list[str]) -> int:
  """Writes a file; returns 0."""
  parser = new_parser(
    'export',
    'Writes one file: serialized programs with the parameters inside, float32 and bfloat16, a '
    'whole clip and one step of a stream, for CPU, CUDA and TPU; and FILE.md, the model card. '
    'docs/examples/run_exported.py runs it with jax and numpy. A FILE.safetensors gets config and '
    'parameters alone, and stands wherever a checkpoint does.',
  )
  add = parser.add_argument
  text = 'workdir of a training run, a .safetensors file, or default'
  add('--checkpoint', required=True, metavar='DIR', help=text)
  add('--out', required=True, metavar='FILE')
  text = 'which parameters to use'
  add('--which', choices=('teacher', 'student'), default='teacher', help=text)
  add('--step', default='latest', metavar='STEP', help=STEP_HELP)
  add('--frames', type=int, default=10, metavar='T', help='of the clip programs (default: 10)')
  text = 'metrics.json of an evaluation of this checkpoint, for the model card'
  add('--metrics', metavar='PATH', help=text)
  text = 'of a .safetensors: what `segment` says about the model, such as its license'
  add('--note', default='', metavar='TEXT', help=text)
  text = 'of a .safetensors: fit the confidence on validation clips '
  text += '(phantoms drawn anew, or the prepared split)'
  add('--calibrate', action='store_true', help=text)
  text = 'calibrate on prepared clips of --dataset and --split here'
  add('--data_dir', metavar='DATA', help=text)
  add('--dataset', metavar='NAME', help='of --data_dir (default: camus)')
  add('--split', help='of --data_dir (default: validation)')
  add('--no_check', action='store_true', help='do not run the programs once to compare them')
  args = parser.parse_args(argv)
  if (args.calibrate or args.note) and not args.out.endswith('.safetensors'):
    parser.error('--calibrate and --note: wanted an --out that ends in .safetensors')
  if args.data_dir and not args.calibrate:
    parser.error('--data_dir: wanted --calibrate, which reads it')
  if (args.dataset or args.split) and not args.data_dir:
    parser.error('--dataset and --split: wanted --data_dir, whose they are')
  from echoforge_jax.inference import export, receipt

  print(receipt.DISCLAIMER)
  common = {'which': args.which, 'step': args.step, 'metrics': args.metrics}
  if args.out.endswith('.safetensors'):
    data = {'data_dir': args.data_dir, 'dataset': args.dataset or 'camus'}
    data |= {'split': args.split or 'validation'}
    common |= {'note': args.note, 'data': data if args.data_dir else None}
    export.export_network(args.checkpoint, args.out, calibrate=args.calibrate, **common)
  else:
    check = not args.no_check
    export.export_run(args.checkpoint, args.out, frames=args.frames, check=check, **common)
  return 0
