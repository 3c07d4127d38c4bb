#!/usr/bin/env bash
# Trains on a TPU slice of Google Kubernetes Engine, as a JobSet.
#
# usage: launch/gke.sh [--dry_run] COMMAND [FLAGS OF TRAIN]
#
#   create   a cluster, a TPU node pool, JobSet, an image repository; they cost
#            from now on
#   install  builds the image from the last commit and pushes it
#   run      submits train: --config=... --workdir=gs://... (data is in data/)
#   watch    restarts and pods, then the log of the first process
#   stop     tells train to save and end; the machines stay
#   resume   submits it again after a stop (preemptions resume by themselves)
#   delete   deletes the job, the node pool and the cluster
#
# Environment (--dry_run only prints the commands):
#   PROJECT          Google Cloud project; needed
#   ZONE             of cluster and TPUs, such as us-west4-a; needed
#   DATA             gs:// folder of the prepared data; needed by run
#   NAME             of the training; default echoforge
#   CLUSTER          default echoforge
#   IMAGE            default ${REGION}-docker.pkg.dev/PROJECT/echoforge/train:COMMIT
#   MACHINE_TYPE     default ct5lp-hightpu-4t (v5e, 4 chips a machine)
#   TPU_ACCELERATOR  default tpu-v5-lite-podslice
#   TPU_TOPOLOGY     default 4x4
#   HOSTS            machines of the slice; default 4
#   CHIPS_PER_HOST   default 4
#   SPOT             1 (default): cheaper, may be preempted; 0: on demand
#   JOBSET_VERSION   default v0.11.1
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=common.sh
source launch/common.sh

project=${PROJECT:-} zone=${ZONE:-} name=${NAME:-echoforge}
cluster=${CLUSTER:-echoforge} spot=${SPOT:-1} data=${DATA:-}
region=${zone%-*}
machine_type=${MACHINE_TYPE:-ct5lp-hightpu-4t}
tpu_accelerator=${TPU_ACCELERATOR:-tpu-v5-lite-podslice}
tpu_topology=${TPU_TOPOLOGY:-4x4}
hosts=${HOSTS:-4} chips_per_host=${CHIPS_PER_HOST:-4}
jobset_version=${JOBSET_VERSION:-v0.11.1}
registry=${region}-docker.pkg.dev
image=${IMAGE:-${registry}/${project}/echoforge/train:$(
  git rev-parse --short=12 HEAD)}
# Pods may use what the project's service account may: buckets, images.
scopes=https://www.googleapis.com/auth/cloud-platform

create() {
  local flags=()
  if [[ "${spot}" == 1 ]]; then flags+=(--spot); fi
  run gcloud container clusters create "${cluster}" --project="${project}" \
    --location="${zone}" --num-nodes=1 --machine-type=e2-standard-4 \
    --scopes="${scopes}"
  run gcloud container node-pools create tpu --cluster="${cluster}" \
    --project="${project}" --location="${zone}" \
    --machine-type="${machine_type}" --tpu-topology="${tpu_topology}" \
    --num-nodes="${hosts}" --scopes="${scopes}" ${flags[@]+"${flags[@]}"}
  run gcloud container clusters get-credentials "${cluster}" \
    --project="${project}" --location="${zone}"
  run kubectl apply --server-side --filename="https://github.com/\
kubernetes-sigs/jobset/releases/download/${jobset_version}/manifests.yaml"
  run gcloud artifacts repositories create echoforge --project="${project}" \
    --location="${region}" --repository-format=docker
}

install() {
  if [[ -n "$(git status --porcelain --untracked-files=no)" ]]; then
    echo 'warning: the image gets the last commit, without your changes' >&2
  fi
  run gcloud auth configure-docker "${registry}" --quiet
  # A pipe, not the folder: only what is committed, and no .venv.
  run bash -c "set -o pipefail; git archive HEAD | $(quote docker build \
    --file=launch/Dockerfile --tag="${image}" -)"
  run docker push "${image}"
}

# Prints the JobSet; ends where a value is missing.
fill_template() {
  NAME=${name} DATA=${data} IMAGE=${image} HOSTS=${hosts} \
    CHIPS_PER_HOST=${chips_per_host} TPU_ACCELERATOR=${tpu_accelerator} \
    TPU_TOPOLOGY=${tpu_topology} python3 - "$@" << 'EOF'
import json, os, pathlib, re, string, sys

text = pathlib.Path('launch/gke_jobset.yaml').read_text()
# Kubernetes reads $(X) in arguments as a variable, and $$ as a dollar.
args = [a.replace('$', '$$') for a in ['train', '--multihost', *sys.argv[1:]]]
# The first lines describe the template.
text = re.sub(r'\A(#.*\n)+', '', text)
print(string.Template(text).substitute(os.environ, ARGS=json.dumps(args)),
      end='')
EOF
}

run_train() {
  need_bucket "$@"
  need DATA 'the gs:// folder of the prepared data'
  if [[ -n "${dry_run}" ]]; then
    echo "kubectl create --filename=- << 'EOF'"
    fill_template "$@"
    echo EOF
  else
    fill_template "$@" | kubectl create --filename=-
  fi
}

watch() {
  local label=jobset.sigs.k8s.io/jobset-name=${name}
  run kubectl get jobset "${name}"
  run kubectl get pods --selector="${label}" --output=wide
  run kubectl logs --follow --tail=100 --container=train \
    --selector="${label},batch.kubernetes.io/job-completion-index=0"
}

stop() {
  run kubectl delete jobset "${name}" --ignore-not-found
}

resume() {
  need_bucket "$@"
  stop
  run_train "$@"
}

delete() {
  stop
  run gcloud container node-pools delete tpu --cluster="${cluster}" \
    --project="${project}" --location="${zone}" --quiet
  run gcloud container clusters delete "${cluster}" --project="${project}" \
    --location="${zone}" --quiet
  note 'what is left, and costs: this list; images and buckets (storage)'
  run gcloud container clusters list --project="${project}"
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
[[ "${name}" =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] || die \
  "NAME=${name}: wanted up to 40 of a-z, 0-9 and -, a letter first"
case "${command}" in
  run) run_train "$@" ;;
  *) "${command}" "$@" ;;
esac
