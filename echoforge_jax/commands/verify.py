"""verify: check a raw dataset; exit 1 on errors."""

from echoforge_jax import textio
from echoforge_jax.commands import new_parser
from echoforge_jax.errors import InputError
from echoforge_jax.formats.findings import as_json, summary

LABELS = "a folder: values of the masks, such as lv=1,myo=2 (instead of dataset.json's)"


def open_reader(dataset: str, raw_dir, labels: str = ''):
  """Opens a raw dataset; `labels` names the values of a folder's masks."""
  from echoforge_jax.data.datasets import reader_of

  if labels and dataset != 'folder':
    raise InputError(f'--labels: found the dataset {dataset!r}, wanted --dataset=folder')
  return reader_of(dataset, '--dataset')(raw_dir, **({'labels': labels} if labels else {}))


def main(argv: list[str]) -> int:
  """Prints what is wrong with a raw folder; returns 1 if there are errors."""
  parser = new_parser(
    'verify',
    'Checks every file of a raw dataset. Exit status 1 if there are errors, 0 if there are none or '
    'only warnings.',
  )
  add = parser.add_argument
  text = "camus, echonet, folder (your own data), or 'module.path:Name' of a reader of your own"
  add('--dataset', required=True, metavar='NAME', help=text)
  text = 'root of the download, as the provider ships it'
  add('--raw', required=True, metavar='DIR', help=text)
  add('--json', metavar='FILE', help='write all findings to FILE as well')
  add('--labels', default='', metavar='NAME=VALUE,...', help=LABELS)
  args = parser.parse_args(argv)
  reader = open_reader(args.dataset, args.raw, args.labels)
  findings = list(reader.verify())
  num_patients = reader.count_patients()
  report = as_json(findings, dataset=args.dataset, raw_dir=args.raw, num_patients=num_patients)
  try:
    if args.json:
      textio.write_json(args.json, report)
  except OSError as error:
    raise InputError(
      f'{args.json}: cannot be written ({error.strerror}); remedy: choose another --json'
    ) from error
  finally:
    print(summary(findings, num_patients))
  return 1 if report['errors'] else 0
