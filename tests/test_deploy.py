"""The image, the manifests and the forms of the repository, as far as they can be read here."""

import json
import pathlib
import re
import tomllib

import pytest
import yaml

import jax_prompt
from jax_prompt.flags import FLAGS
from jax_prompt.serving.limits import OPEN_PATHS

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
#: What a Dockerfile may say.
INSTRUCTIONS = {'ARG', 'FROM', 'WORKDIR', 'COPY', 'RUN', 'VOLUME', 'ENV', 'USER', 'EXPOSE',
                'HEALTHCHECK', 'ENTRYPOINT', 'CMD'}


@pytest.fixture(scope='module')
def image():
    """The Dockerfile's instructions as (name, arguments), continued lines joined."""
    text = re.sub(r'^\s*#.*\n', '', (ROOT / 'Dockerfile').read_text(), flags=re.MULTILINE)
    lines = re.sub(r'\\\n', ' ', text).splitlines()
    found = [tuple(line.split(None, 1)) for line in lines if line.strip()]
    assert {name for name, _ in found} <= INSTRUCTIONS
    return found


def test_the_image_is_built_of_files_that_are_there_and_let_through(image):
    ignored = (ROOT / '.dockerignore').read_text().splitlines()
    for name, arguments in image:
        if name == 'COPY' and not arguments.startswith('--from'):
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists() and f'!{source}' in ignored, source


def test_the_image_installs_extras_that_there_are(image):
    told = (ROOT / 'Dockerfile').read_text()
    accelerators = re.findall(r'--build-arg ACCELERATOR=(\w+)', told)
    assert accelerators == ['cuda', 'tpu'] and {'serve', *accelerators} <= set(
        PROJECT['optional-dependencies'])
    assert any('".[serve${ACCELERATOR:+,$ACCELERATOR}]"' in arguments for _, arguments in image)


def test_the_image_runs_the_command_as_nobody_in_particular_and_knows_its_health(image):
    last = [index for index, (name, _) in enumerate(image) if name == 'FROM'][-1]
    final = dict(image[last:])
    assert final['USER'].isdigit() and int(final['USER']) > 0
    assert json.loads(final['ENTRYPOINT']) == ['jax-prompt'] and json.loads(final['CMD'])
    (path,) = re.findall(r'http://127\.0\.0\.1:8000(/\w+)', final['HEALTHCHECK'])
    assert path in OPEN_PATHS and final['EXPOSE'] == '8000'


def test_the_manifest_serves_as_the_image_can():
    kinds = {one['kind']: one for one in
             yaml.safe_load_all((ROOT / 'deploy/kubernetes.yaml').read_text())}
    pod = kinds['Deployment']['spec']['template']['spec']
    (container,) = pod['containers']
    command, *arguments = container['args']
    known = {flag.name for flag in FLAGS[command]}
    assert all(re.match(r'--(\w+)=', one)[1] in known for one in arguments)
    for probe in ('startupProbe', 'readinessProbe', 'livenessProbe'):
        assert container[probe]['httpGet']['path'] in OPEN_PATHS
    mounts = {mount['name']: mount['mountPath'] for mount in container['volumeMounts']}
    assert mounts.keys() == {volume['name'] for volume in pod['volumes']}
    assert {'/cache', '/tmp'} <= set(mounts.values())  # all that is written, see the Dockerfile
    assert container['securityContext']['readOnlyRootFilesystem'] and \
        pod['securityContext']['runAsNonRoot']
    (port,) = kinds['Service']['spec']['ports']
    assert port['targetPort'] == container['ports'][0]['name']
    assert kinds['Service']['spec']['selector'] == pod_labels(kinds)
    assert kinds['Deployment']['spec']['selector']['matchLabels'] == pod_labels(kinds)
    (rule,) = kinds['Ingress']['spec']['rules']
    assert rule['http']['paths'][0]['backend']['service']['name'] == \
        kinds['Service']['metadata']['name']


def pod_labels(kinds):
    return kinds['Deployment']['spec']['template']['metadata']['labels']


def test_the_citation_and_the_forms_can_be_read():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == jax_prompt.__version__
    assert citation['license'] == PROJECT['license']
    for form in (ROOT / '.github/ISSUE_TEMPLATE').glob('[!c]*.yml'):
        fields = yaml.safe_load(form.read_text())
        assert {'name', 'description', 'body'} <= fields.keys()
        assert all(one['type'] in ('textarea', 'markdown') for one in fields['body'])


def test_the_hooks_run_what_make_lint_runs():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    assert 'ruff check' in (ROOT / 'Makefile').read_text()
    assert any('ruff check' in hook['entry'] for hook in hooks)
