#!/usr/bin/env bash
# Trains on a slice of a TPU pod: Cloud TPU VMs, through gcloud.
#
# usage: launch/tpu_pod.sh [--dry_run] COMMAND [FLAGS OF TRAIN]
#
#   create   asks for the machines and waits for them; they cost from now on
#   install  copies the last commit and the data to every machine, installs
#   run      starts train on every machine, in tmux: --config=... --workdir=gs://...
#   watch    state of the machines, then the log of the first one
#   stop     tells train to save and end
#   resume   after a preemption: new machines, install, run (same flags)
#   delete   gives the machines back
#
# Environment (--dry_run only prints the commands):
#   PROJECT           Google Cloud project; needed
#   ZONE              such as us-west4-a; needed
#   NAME              of the machines and their request; default echoforge
#   ACCELERATOR_TYPE  default v5litepod-16: 16 chips, 4 machines
#   RUNTIME_VERSION   default v2-alpha-tpuv5-lite (v5e); v6e: v2-alpha-tpuv6e
#   SPOT              1 (default): cheaper, may be preempted; 0: on demand
#   DATA              gs:// folder of the prepared data, copied to data/
#   CREATE_FLAGS      more flags of create, such as --network=NET --reserved
#   PYTHON_VERSION    default 3.12
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=common.sh
source launch/common.sh

project=${PROJECT:-} zone=${ZONE:-} name=${NAME:-echoforge}
accelerator_type=${ACCELERATOR_TYPE:-v5litepod-16}
runtime_version=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}
data=${DATA:-} spot=${SPOT:-1} python_version=${PYTHON_VERSION:-3.12}

# gcloud compute tpus WHAT VERB NAME ..., in the project and zone.
tpus() { gcloud compute tpus "$@" --project="${project}" --zone="${zone}"; }
run_tpus() {
  run gcloud compute tpus "$@" --project="${project}" --zone="${zone}"
}

on_every_machine() {
  run_tpus tpu-vm ssh "${name}" --worker=all --command="$1"
}

# State of the request, or nothing where there is none.
state() {
  tpus queued-resources list --filter="name~/${name}\$" \
    --format='value(state.state)'
}

wait_until_active() {
  local now
  if [[ -n "${dry_run}" ]]; then
    note 'again and again, until it says ACTIVE:'
    run_tpus queued-resources describe "${name}" --format='value(state.state)'
    return
  fi
  while true; do
    now=$(tpus queued-resources describe "${name}" \
      --format='value(state.state)')
    case "${now}" in
      ACTIVE) return ;;
      FAILED|SUSPENDING|SUSPENDED)
        die "the request ${name} is ${now}; see why with: gcloud compute tpus" \
          "queued-resources describe ${name} --zone=${zone}; then delete it" ;;
    esac
    echo "$(date '+%H:%M') ${now}" >&2
    sleep 30
  done
}

create() {
  local flags=()
  if [[ "${spot}" == 1 ]]; then flags+=(--spot); fi
  if [[ -n "${CREATE_FLAGS:-}" ]]; then
    # Words of a variable, without expanding wildcards.
    read -r -a more <<< "${CREATE_FLAGS}"
    flags+=("${more[@]}")
  fi
  run_tpus queued-resources create "${name}" --node-id="${name}" \
    --accelerator-type="${accelerator_type}" \
    --runtime-version="${runtime_version}" ${flags[@]+"${flags[@]}"}
  wait_until_active
}

install() {
  local archive=echoforge.tar.gz script
  if [[ -n "$(git status --porcelain --untracked-files=no)" ]]; then
    echo 'warning: the machines get the last commit, without your changes' >&2
  fi
  run git archive --format=tar.gz --output="${TMPDIR:-/tmp}/${archive}" HEAD
  run_tpus tpu-vm scp "${TMPDIR:-/tmp}/${archive}" "${name}:${archive}" \
    --worker=all
  # The image's Python may be older than ours; uv brings its own.
  script="set -e; mkdir -p echoforge; cd echoforge"
  script+="; rm -rf echoforge_jax configs launch; tar -xzf ../${archive}"
  script+="; python3 -m pip install --quiet --user uv"
  script+="; uv=\$HOME/.local/bin/uv"
  script+="; test -d .venv || \$uv venv --python ${python_version} .venv"
  script+="; \$uv pip install --quiet -r requirements.txt 'jax[tpu]'"
  script+=" 'etils[epath-gcs]'"
  script+="; \$uv pip install --quiet --no-deps -e ."
  if [[ -n "${data}" ]]; then
    script+="; mkdir -p data; gcloud storage rsync --recursive"
    script+=" $(quote "${data}") data"
  fi
  on_every_machine "${script}"
  note 'must print the number of all chips, once a machine:'
  script='import jax; jax.distributed.initialize(); print(jax.device_count())'
  on_every_machine "cd echoforge; .venv/bin/python -c '${script}'"
}

run_train() {
  local script
  need_bucket "$@"
  script="$(quote .venv/bin/python -m echoforge_jax train --multihost "$@")"
  script+=" >> train.log 2>&1; echo \"train ended with status \$?\" >> train.log"
  on_every_machine "cd echoforge || exit 1; if tmux has-session -t train \
2> /dev/null; then echo 'train is running already; watch it, or stop it' >&2; \
exit 1; fi; tmux new-session -d -s train $(quote "${script}")"
}

watch() {
  run_tpus queued-resources describe "${name}" --format='value(state.state)'
  run_tpus tpu-vm ssh "${name}" --worker=0 \
    --command='tail -n 100 -F echoforge/train.log'
}

stop() {
  # The bracket keeps the pattern from finding this very command.
  on_every_machine "pkill -TERM -f '[e]choforge_jax train'"
}

delete() {
  run_tpus queued-resources delete "${name}" --force --quiet
  note 'what is left, and costs:'
  run_tpus queued-resources list
}

resume() {
  local now=SUSPENDED
  need_bucket "$@"
  if [[ -z "${dry_run}" ]]; then now=$(state); fi
  case "${now}" in
    ACTIVE) run_train "$@"; return ;;
    SUSPENDED|SUSPENDING|FAILED)
      note 'where the machines are gone (state SUSPENDED):'
      run_tpus queued-resources delete "${name}" --force --quiet
      create ;;
    '') create ;;
    *) wait_until_active ;;
  esac
  install
  run_train "$@"
}

if [[ "${1:-}" == --dry_run ]]; then dry_run=1; shift; fi
command=${1:-}
if (( $# > 0 )); then shift; fi
case "${command}" in
  create|install|watch|stop|delete)
    (( $# == 0 )) || die "${command} takes no flags, found $1" ;;
  run|resume) ;;
  -h|--help|help) usage "$0" 0 ;;
  '') usage "$0" 2 >&2 ;;
  *) die "unknown command ${command}; choose create, install, run, watch," \
       'stop, resume or delete' ;;
esac
need PROJECT 'the Google Cloud project'
need ZONE 'a zone with this accelerator, such as us-west4-a'
case "${command}" in
  run) run_train "$@" ;;
  *) "${command}" "$@" ;;
esac
