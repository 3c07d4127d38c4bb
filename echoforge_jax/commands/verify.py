"""verify: check a raw dataset; exit 1 on errors."""

from pathlib import Path
import sys

from echoforge_jax import textio
from echoforge_jax.commands import new_parser
from echoforge_jax.errors import InputError
from echoforge_jax.formats.findings import as_json, summary


def _verify_camus(raw_dir, progress):
  from echoforge_jax.data import verify
  from echoforge_jax.formats import camus

  return len(camus.list_patients(raw_dir)), verify.verify_camus(raw_dir, progress=progress)


def _verify_echonet(raw_dir, progress):
  from echoforge_jax.data import verify_echonet
  from echoforge_jax.formats import echonet

  findings = verify_echonet.verify_echonet(raw_dir, progress=progress)
  dataset = echonet.Dataset(Path(raw_dir).expanduser())
  return sum(len(dataset.clips_of(split)) for split in echonet.SPLITS), findings


# Each returns (patients, findings).
_VERIFIERS = {'camus': _verify_camus, 'echonet': _verify_echonet}


def main(argv: list[str]) -> int:
  """Prints what is wrong with a raw folder; returns 1 if there are errors."""
  parser = new_parser(
    'verify',
    'Checks every file of a raw dataset. Exit status 1 if there are errors, 0 if there are none or '
    'only warnings.',
  )
  add = parser.add_argument
  add('--dataset', required=True, choices=sorted(_VERIFIERS))
  text = 'root of the download, as the provider ships it'
  add('--raw', required=True, metavar='DIR', help=text)
  add('--json', metavar='FILE', help='write all findings to FILE as well')
  args = parser.parse_args(argv)
  num_patients, findings = _VERIFIERS[args.dataset](args.raw, sys.stderr.isatty())
  print(summary(findings, num_patients))
  report = as_json(findings, dataset=args.dataset, raw_dir=args.raw, num_patients=num_patients)
  if args.json:
    try:
      textio.write_json(args.json, report)
    except OSError as error:
      raise InputError(
        f'{args.json}: cannot be written ({error.strerror}); remedy: choose another --json'
      ) from error
  return 1 if report['errors'] else 0
