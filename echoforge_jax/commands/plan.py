"""plan --config=FILE[:ARG] [--topology=v5e:16x16,...]: what chips would do."""

from pathlib import Path
import resource
import sys
import time

from echoforge_jax.commands import new_parser
from echoforge_jax.errors import InputError

_TEXT = """\
Compiles the training and the inference step of a config for chips that need not
be here, and says whether they fit, what they cost and what chips exchange. TPUs
need libtpu (pip install -r requirements-tpu.txt), but no TPU.
"""
_EPILOG = """\
any field of the config can be set: --config.model.remat=True --config.fsdp=4.
exit status: 0 every training step fits, 1 one does not, 2 misuse.
"""


def main(argv: list[str]) -> int:
  """Plans; returns 0, or 1 where a training step does not fit."""
  parser = new_parser('plan', _TEXT, epilog=_EPILOG)
  add = parser.add_argument
  add('--config', required=True, metavar='FILE[:ARG]')
  text = 'such as v5e:4x4, v5e:16x16, v6e:16x16, v5p:8x8x4, v4:4x4x4; '
  text += "default: local, JAX's devices here"
  add('--topology', default='local', metavar='A,B', help=text)
  text = "clips a chip (default: the config's batch if it divides, else 1)"
  add('--per_chip', type=int, default=0, metavar='N', help=text)
  add('--scaling', action='store_true', help='smaller slices of the same chips as well')
  text = 'try nothing else where a step does not fit'
  add('--no_suggest', action='store_true', help=text)
  add('--json', metavar='FILE', type=Path)
  fields = [flag for flag in argv if flag.startswith('--config.')]
  args = parser.parse_args([flag for flag in argv if flag not in fields])
  if args.per_chip < 0:
    raise InputError(f'--per_chip={args.per_chip}: wanted at least 1')
  if args.json and not args.json.resolve().parent.is_dir():
    raise InputError(f'--json={args.json}: no such folder; make it first')
  names = [name for name in args.topology.split(',') if name]
  if names != ['local'] and ('local' in names or not names):
    raise InputError(f'--topology={args.topology}: wanted slices, or local alone')
  import jax

  from echoforge_jax import textio
  from echoforge_jax.config import parse_config
  from echoforge_jax.parallel import mesh
  from echoforge_jax.planning import plan, report, topology

  config = parse_config([f'--config={args.config}', *fields])
  if names != ['local']:
    topology.prepare_environment()
    # What is traced here runs nowhere; another backend would only start.
    jax.config.update('jax_platforms', 'cpu')
  mesh.split_cpu(config.cpu_devices)
  places = [topology.get_slice(name) for name in topology.ladder(names, args.scaling)]
  plans, start = [], time.perf_counter()
  for place in places:
    found = plan.make_plan(config, place, per_chip=args.per_chip, suggest=not args.no_suggest)
    plans.append(found)
    print(report.text(found), flush=True)
    if args.json:
      record = _record(args, fields, time.perf_counter() - start)
      record['plans'] = [report.to_json(one) for one in plans]
      textio.write_json(args.json, record)
  if len(plans) > 1:
    print('\n' + report.table(plans))
  return 0 if all(one.train.fits for one in plans) else 1


def _record(args, fields: list[str], seconds: float) -> dict:
  from echoforge_jax import provenance
  from echoforge_jax.planning import report, topology

  used = resource.getrusage(resource.RUSAGE_SELF)
  # Kilobytes on Linux, bytes on macOS.
  unit = 1 if sys.platform == 'darwin' else 1024
  return {
    'config': args.config,
    'fields': fields,
    'versions': provenance.versions() | topology.library_version(),
    'wall_seconds': round(seconds, 1),
    'cpu_seconds': round(used.ru_utime + used.ru_stime, 1),
    'peak_memory_bytes': used.ru_maxrss * unit,
    'method': report.METHOD,
  }
