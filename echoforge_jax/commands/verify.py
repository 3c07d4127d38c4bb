"""verify: check a raw dataset; exit 1 on errors."""

import argparse
import json
from pathlib import Path
import sys

from echoforge_jax.data.camus import list_patients
from echoforge_jax.data.findings import as_json, summary
from echoforge_jax.data.verify import verify_camus
from echoforge_jax.errors import InputError


def main(argv: list[str]) -> int:
  """Prints what is wrong with a raw folder.

  Args:
    argv: flags.

  Returns:
    0 without errors (warnings may be there), 1 with.
  """
  parser = argparse.ArgumentParser(
      prog='echoforge verify', allow_abbrev=False,
      description='Checks every file of a raw dataset. Exit status 1 if there '
      'are errors, 0 if there are none or only warnings.')
  parser.add_argument('--dataset', required=True, choices=['camus'])
  parser.add_argument('--raw', required=True, metavar='DIR',
                      help='root of the download, as the provider ships it')
  parser.add_argument('--json', metavar='FILE',
                      help='write all findings to FILE as well')
  args = parser.parse_args(argv)
  num_patients = len(list_patients(args.raw))
  findings = verify_camus(args.raw, progress=sys.stderr.isatty())
  print(summary(findings, num_patients))
  report = as_json(findings, dataset=args.dataset, raw_dir=args.raw,
                   num_patients=num_patients)
  if args.json:
    try:
      Path(args.json).write_text(json.dumps(report, indent=1) + '\n')
    except OSError as error:
      raise InputError(f'{args.json}: cannot be written ({error.strerror}); '
                       'remedy: choose another --json') from error
  return 1 if report['errors'] else 0
