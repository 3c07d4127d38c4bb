"""phantom: write synthetic patients in a provider's raw layout."""

import argparse
import sys


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='echoforge phantom',
    allow_abbrev=False,
    description='Writes synthetic patients with exact truth as raw files of CAMUS or '
    'EchoNet-Dynamic. Continues where an interrupted run with the same flags stopped.',
  )
  parser.add_argument(
    '--layout', choices=['camus', 'echonet'], default='camus', help="the provider's layout to write"
  )
  parser.add_argument('--out', metavar='DIR', help='a new or empty folder')
  parser.add_argument('--patients', type=int, default=20, metavar='N')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--test', type=int, metavar='N', help='test patients (default: a tenth)')
  parser.add_argument(
    '--style',
    choices=['camus', 'randomized'],
    default='camus',
    help='calibrated on CAMUS, or domain-randomized for pretraining',
  )
  parser.add_argument(
    '--camus_format',
    choices=['nifti', 'mhd'],
    default='nifti',
    help="CAMUS's present or older form",
  )
  parser.add_argument(
    '--traps',
    default='',
    metavar='LIST',
    help='echonet: plant faults of real downloads, "all" or '
    'names separated by commas (docs/phantom.md)',
  )
  parser.add_argument(
    '--workers', type=int, default=0, metavar='N', help='processes beside this one (default 0)'
  )
  parser.add_argument(
    '--calibrate',
    action='store_true',
    help='write nothing; print measured image statistics beside those of real CAMUS frames',
  )
  return parser


def main(argv: list[str]) -> int:
  """Writes a phantom dataset, or prints how close the phantom is to CAMUS."""
  parser = _parser()
  args = parser.parse_args(argv)
  if args.out is None and not args.calibrate:
    parser.error('--out is required (or --calibrate)')
  if args.traps and args.layout != 'echonet':
    parser.error('--traps: wanted --layout=echonet')
  if args.calibrate and args.patients < 1:
    parser.error(f'--patients={args.patients}: wanted at least 1')
  from echoforge_jax.phantom.config import PhantomConfig

  config = PhantomConfig.named(args.style)
  if args.calibrate:
    from echoforge_jax.phantom.calibration import calibration_table

    print(calibration_table(args.patients, args.seed, config))
    return 0
  common = dict(
    num_patients=args.patients,
    seed=args.seed,
    config=config,
    num_test=args.test,
    num_workers=args.workers,
    progress=sys.stderr.isatty(),
  )
  if args.layout == 'echonet':
    from echoforge_jax.phantom import echonet_traps, echonet_writer

    traps = (
      list(echonet_traps.TRAPS)
      if args.traps == 'all'
      else [t.strip() for t in args.traps.split(',') if t.strip()]
    )
    truth = echonet_writer.write_echonet(args.out, traps=traps, **common)
    for trap, name in truth['planted'].items():
      print(f'trap {trap}: {name}')
  else:
    from echoforge_jax.phantom.camus_writer import write_camus

    write_camus(args.out, layout=args.camus_format, **common)
  print(f'{args.patients} patients in {args.out}; truth in phantom.json')
  return 0
