#!/usr/bin/env bash
# Trains and evaluates one config on one host with any number of accelerators.
#
# usage: launch/one_host.sh [--dry_run] RAW_DIR WORKDIR [CONFIG [--config.x=y]...]
#
#   RAW_DIR  a raw CAMUS tree (database_nifti/ and database_split/ inside)
#   WORKDIR  checkpoints, metrics and report; run again to resume. It may be a
#            bucket (gs://...): data/ and reports/ are then in the repository
#   CONFIG   default configs/camus_echoforge.py
#
# ACCELERATOR=cuda13|cuda12|tpu|cpu (default cuda13) chooses the jax extra that
# is installed into .venv on the first run.
set -euo pipefail
cd "$(dirname "$0")/.."

run() { echo "+ $*" >&2; if [[ -z "${dry_run}" ]]; then "$@"; fi; }

dry_run=''
if [[ "${1:-}" == '--dry_run' ]]; then dry_run=1; shift; fi
if (( $# < 2 )); then
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
raw=$1 workdir=$2
shift 2
config=${1:-configs/camus_echoforge.py}
if (( $# > 0 )); then shift; fi
accelerator=${ACCELERATOR:-cuda13}
# Prepared data and reports are files of this host.
reports=${workdir} prepared=${DATA_DIR:-${workdir}/data}
if [[ "${workdir}" == gs://* ]]; then
  reports=reports/${workdir##*/} prepared=${DATA_DIR:-data}
fi
image_size=${IMAGE_SIZE:-256}

run make .venv/.installed
if [[ "${accelerator}" != cpu ]]; then
  # The newest jax that the ranges allow for this Python: not the CPU lock.
  run .venv/bin/python -m pip install --quiet --upgrade \
    -r requirements.txt "jax[${accelerator}]"
fi
if [[ "${workdir}" == gs://* ]]; then
  run .venv/bin/python -m pip install --quiet 'etils[epath-gcs]'
fi
python=(.venv/bin/python -m echoforge_jax)
run "${python[@]}" verify --dataset=camus --raw="${raw}"
run "${python[@]}" prepare --dataset=camus --raw="${raw}" \
  --data_dir="${prepared}" --image_size="${image_size}"
run "${python[@]}" train --config="${config}" --workdir="${workdir}" \
  --config.data.data_dir="${prepared}" "$@"
for protocol in camus_semi camus_full; do
  run "${python[@]}" evaluate --workdir="${workdir}" --split=test \
    --protocol="${protocol}" --out="${reports}/${protocol}"
done
