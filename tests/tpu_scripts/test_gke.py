"""The manifests for GKE: what Kubernetes and GKE ask for, and what must agree between the parts."""

import math
import re

import pytest
import yaml

from tests.tpu_scripts.conftest import SCRIPTS

GKE = SCRIPTS / 'gke'


def documents(name: str) -> dict[str, dict]:
    found = yaml.safe_load_all((GKE / name).read_text())
    return {document['kind']: document for document in found}


@pytest.fixture(params=['single_host.yaml', 'multi_host.yaml'])
def job(request):
    return documents(request.param)['Job']


def container(job: dict) -> dict:
    (found,) = job['spec']['template']['spec']['containers']
    return found


def test_the_chips_of_all_nodes_are_those_of_the_topology(job):
    selector = job['spec']['template']['spec']['nodeSelector']
    assert re.fullmatch(r'tpu-v\d\S*', selector['cloud.google.com/gke-tpu-accelerator'])
    chips = math.prod(map(int, selector['cloud.google.com/gke-tpu-topology'].split('x')))
    resources = container(job)['resources']
    assert resources['limits'] == resources['requests']
    assert resources['limits']['google.com/tpu'] * job['spec']['parallelism'] == chips
    assert job['spec']['completions'] == job['spec']['parallelism']


def test_nodes_that_may_be_taken_away_are_chosen_and_tolerated(job):
    pod = job['spec']['template']['spec']
    assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
    (toleration,) = pod['tolerations']
    assert toleration == {'key': 'cloud.google.com/gke-spot', 'operator': 'Equal',
                          'value': 'true', 'effect': 'NoSchedule'}


def test_a_pod_that_is_taken_away_has_time_to_save_and_is_made_again(job):
    pod = job['spec']['template']['spec']
    # The worker gives training 20 seconds, then copies; see grace_seconds in worker.sh.
    assert pod['terminationGracePeriodSeconds'] >= 60
    assert pod['restartPolicy'] == 'Never'  # the only one that podFailurePolicy allows
    assert job['spec']['backoffLimit'] >= 1
    rules = {rule['action']: rule for rule in job['spec']['podFailurePolicy']['rules']}
    assert rules['Ignore']['onPodConditions'] == [
        {'type': 'DisruptionTarget', 'status': 'True'}]
    failing = rules['FailJob']['onExitCodes']
    assert failing == {
        'containerName': container(job)['name'], 'operator': 'In', 'values': [2]}


def test_nothing_costs_money_for_ever(job):
    assert 0 < job['spec']['activeDeadlineSeconds'] < 14 * 86400
    assert job['spec']['ttlSecondsAfterFinished'] > 0


def test_the_pods_of_several_hosts_find_each_other():
    found = documents('multi_host.yaml')
    service, job = found['Service'], found['Job']
    assert service['spec']['clusterIP'] == 'None'
    assert service['spec']['publishNotReadyAddresses'] is True
    assert service['spec']['selector'] == {
        'batch.kubernetes.io/job-name': job['metadata']['name']}
    assert job['spec']['template']['spec']['subdomain'] == service['metadata']['name']
    assert job['spec']['completionMode'] == 'Indexed'
    assert job['spec']['parallelism'] > 1
    # GKE gives them; what the manifest said would stand in their place.
    names = {entry['name'] for entry in container(job).get('env', [])}
    assert not names & {'TPU_WORKER_ID', 'TPU_WORKER_HOSTNAMES'}


def test_the_pod_of_one_host_is_told_that_it_is_alone():
    env = {entry['name']: entry['value']
           for entry in container(documents('single_host.yaml')['Job'])['env']}
    assert env == {'TPU_WORKER_ID': '0', 'TPU_WORKER_HOSTNAMES': 'localhost'}


def test_the_arguments_are_those_of_the_worker(world, job):
    """The entrypoint of the image, run here with the manifest's arguments."""
    from tests.tpu_scripts.test_worker import Machine

    entrypoint = re.search(r'ENTRYPOINT \[(.*)\]', (GKE / 'Dockerfile').read_text()).group(1)
    assert entrypoint == '"bash", "/jax_prompt/worker.sh", "foreground"'
    arguments = container(job)['args']
    assert all(isinstance(word, str) for word in arguments)
    hosts = [f'jax-prompt-{i}.jax-prompt' for i in range(job['spec']['parallelism'])]
    machine = Machine(world, 'pod', TPU_WORKER_HOSTNAMES=','.join(hosts))
    assert machine.call('foreground', *arguments).returncode == 0
    assert world.argv()[:len(arguments) - 3] == arguments[3:]
    assert ('--distributed' in world.argv()) == (len(hosts) > 1)
    assert (world.bucket / 'output/checkpoints/1/state').exists()


def test_the_image_has_the_versions_of_the_workers():
    dockerfile, worker = ((GKE / 'Dockerfile').read_text(), (SCRIPTS / 'worker.sh').read_text())
    uv, python = re.search(r'UV_VERSION=(\S+) PYTHON_VERSION=(\S+)', worker).groups()
    assert f'astral-sh/uv:{uv} ' in dockerfile
    assert f'--python={python} ' in dockerfile
    for line in re.findall(r'^COPY (?!--from)(.*) \S+$', dockerfile, re.MULTILINE):
        for source in line.split():
            assert (SCRIPTS.parent / source).exists(), source
    assert not re.search(r'^FROM \S+:latest|^FROM [^:\s]+$', dockerfile, re.MULTILINE)
