"""The JobSet is valid, and restarts what a preemption stopped."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.launch.launch_scripts import CLOUD, LAUNCH, call

SCHEMA = json.loads((Path(__file__).parent / 'jobset.schema.json').read_text())
FLAGS = ('--config=configs/camus_echoforge.py:all', '--workdir=gs://bucket/run')


def filled(*flags, **settings):
  done = call('gke.sh', '--dry_run', 'run', *FLAGS, *flags, **CLOUD | settings)
  assert done.returncode == 0, done.stderr
  text = done.stdout.split("<< 'EOF'\n")[1].rpartition('EOF\n')[0]
  return yaml.safe_load(text)


def job_of(jobset):
  (replicated,) = jobset['spec']['replicatedJobs']
  return replicated['template']['spec']


@pytest.fixture(scope='module')
def jobset():
  return filled()


def test_fits_the_schema(jobset):
  jsonschema.Draft202012Validator.check_schema(SCHEMA)
  jsonschema.validate(jobset, SCHEMA)


@pytest.mark.parametrize(
  'change',
  [
    lambda job: job.update(backofLimit=0),
    lambda job: job.update(completions='4'),
    lambda job: job['podFailurePolicy']['rules'][0].update(action='Restart'),
    lambda job: job['podFailurePolicy']['rules'][1].pop('onPodConditions'),
    lambda job: job['template']['spec'].update(restartPolicy='Always'),
    lambda job: job['template']['spec']['containers'][0].pop('image'),
    lambda job: job['template']['spec']['nodeSelector'].update(x=4),
  ],
)
def test_the_schema_finds_mistakes(jobset, change):
  broken = json.loads(json.dumps(jobset))
  change(job_of(broken))
  with pytest.raises(jsonschema.ValidationError):
    jsonschema.validate(broken, SCHEMA)


def test_one_slice_of_machines_for_itself(jobset):
  assert jobset['metadata']['annotations'] == {
    'alpha.jobset.sigs.k8s.io/exclusive-topology': (
      'cloud.google.com/gke-nodepool'
    )
  }
  job = job_of(jobset)
  pod = job['template']['spec']
  assert job['parallelism'] == job['completions'] == 4
  assert job['completionMode'] == 'Indexed'
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x4',
  }
  (train,) = pod['containers']
  assert train['resources']['limits'] == {'google.com/tpu': 4}
  assert train['args'] == ['train', '--multihost', *FLAGS]
  # Every volume that is mounted is there.
  mounted = {
    mount['name']
    for container in [*pod['containers'], *pod['initContainers']]
    for mount in container['volumeMounts']
  }
  assert mounted == {volume['name'] for volume in pod['volumes']}


def test_preemptions_restart_without_limit_and_failures_with_one(jobset):
  policy = jobset['spec']['failurePolicy']
  (rule,) = policy['rules']
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  assert 0 < policy['maxRestarts'] < 10
  job = job_of(jobset)
  exit_code, condition = job['podFailurePolicy']['rules']
  assert exit_code['action'] == condition['action'] == 'FailJob'
  assert exit_code['onExitCodes'] == {
    'containerName': job['template']['spec']['containers'][0]['name'],
    'operator': 'In',
    'values': [143],
  }
  assert condition['onPodConditions'] == [
    {'type': 'DisruptionTarget', 'status': 'True'}
  ]
  # A pod failure policy needs this, and no pod may come back alone.
  assert job['template']['spec']['restartPolicy'] == 'Never'
  assert job['backoffLimit'] == 0
  assert job['template']['spec']['terminationGracePeriodSeconds'] >= 60


def test_settings_and_awkward_flags_arrive():
  jobset = filled(
    '--config.x=it\'s "$(HOME)" $y',
    HOSTS='8',
    NAME='exp-1',
    IMAGE='registry/image:tag',
  )
  jsonschema.validate(jobset, SCHEMA)
  job = job_of(jobset)
  (train,) = job['template']['spec']['containers']
  assert jobset['metadata']['name'] == 'exp-1' and job['parallelism'] == 8
  assert train['image'] == 'registry/image:tag'
  # Kubernetes makes one dollar of two, and would expand $(HOME).
  assert train['args'][-1] == '--config.x=it\'s "$$(HOME)" $$y'


def test_the_image_runs_the_package():
  lines = [
    line
    for line in (LAUNCH / 'Dockerfile').read_text().splitlines()
    if line and not line.startswith('#')
  ]
  assert lines[0].startswith('FROM python:3.')
  assert lines[-1] == 'ENTRYPOINT ["python", "-m", "echoforge_jax"]'
  assert any('etils[epath-gcs]' in line for line in lines)
