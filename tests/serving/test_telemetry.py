"""What is known of answers: metrics by version, and the sampled log of requests."""

import asyncio
import json
import logging
import os
import pathlib
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.serving.request_log import KEYS, TEXTS, RequestLog
from jax_prompt.serving.settings import ServerSettings
from tests.inference.many_prompts import TASKS, prompt_file, prompts
from tests.serving.test_service import ask, classify, started

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def served(opened, tmp_path_factory):
    """(a service that logs all requests with their texts, the folder of the log)."""
    folder, log = tmp_path_factory.mktemp('prompts'), tmp_path_factory.mktemp('logged') / 'log'
    save_prompt(folder / 'mood@1.safetensors', prompts(opened)['mood'])
    save_prompt(folder / 'mood@2.safetensors', prompt_file(
        opened, 5, Layout('before'), seed=9, name='mood', **TASKS['mood'][2]))
    with started(opened, folder, log=str(log), log_share=1.0, log_texts=True) as service:
        yield service, log


def metric(service, name, **labels):
    """Return the value of a metric; 0 where it was never counted."""
    for family in text_string_to_metric_families(service.metrics.text().decode()):
        for sample in family.samples:
            if sample.name == 'jax_prompt_' + name and labels.items() <= sample.labels.items():
                return sample.value
    return 0


def lines_of(service, log, count):
    """Return the records of a log once there are so many."""
    async def wait():
        async with asyncio.timeout(20):
            while sum(service.telemetry.lines) < count:
                await asyncio.sleep(0.01)

    asyncio.run(wait())
    return [json.loads(line) for file in sorted(log.glob('requests.*.jsonl*'))
            for line in file.read_text().splitlines()]


def test_each_version_has_metrics_and_lines_of_its_own(served):
    service, log = served
    before = sum(service.telemetry.lines)
    status, answer = asyncio.run(classify(service, inputs='the film was great unheard'))
    assert (status, answer['prompt']) == (200, 'mood@2')
    assert asyncio.run(classify(service, prompt='mood@1'))[0] == 200
    record, other = lines_of(service, log, before + 2)[before:before + 2]
    assert metric(service, 'prompt_requests_total', prompt='mood@2', code='200') == 1
    assert metric(service, 'prompt_request_seconds_count', prompt='mood@1') == 1
    assert metric(service, 'prompt_answers_total', prompt='mood@2', label=answer['label']) == 1
    assert metric(service, 'prompt_confidence_sum', prompt='mood@2') == pytest.approx(
        max(answer['probabilities'].values()))
    assert metric(service, 'prompt_unknown_tokens_total', prompt='mood@2') == record['unknown'] > 0
    assert metric(service, 'prompt_input_tokens_sum', prompt='mood@2') == record['tokens']
    assert record.keys() == {'time', 'prompt', 'digest', 'tokens', 'unknown', 'label',
                             'confidence', 'inputs'}
    assert record['label'] == answer['label'] and record['inputs'] == 'the film was great unheard'
    assert record['digest'] == service.folder.find('mood@2').prompt.digest
    assert (record['prompt'], other['prompt']) == ('mood@2', 'mood@1')


def test_what_tells_nothing_of_a_prompt_is_counted_and_not_kept(served):
    service, log = served
    before = len(lines_of(service, log, 0))
    for body in ({'labels': ['film', 'plot']}, {'prompt': None, 'labels': ['film', 'plot']},
                 {'prompt': None, 'ensemble': ['mood@1', 'mood@2']}):
        assert asyncio.run(classify(service, **body))[0] == 200, body
    assert asyncio.run(classify(service, inputs={'no': 'column'}))[0] == 409
    assert len(lines_of(service, log, before)) == before
    assert metric(service, 'prompt_requests_total', prompt='ensemble', code='200') == 1
    assert metric(service, 'prompt_requests_total', prompt='', code='200') == 1
    assert metric(service, 'prompt_requests_total', prompt='mood@2', code='409') == 1


def test_calibration_changes_neither_confidence_nor_label_of_the_log(served):
    service, log = served
    before = len(lines_of(service, log, 0))
    for more in ({}, {'temperature': 5.0}):
        assert asyncio.run(classify(service, **more))[0] == 200
    one, other = lines_of(service, log, before + 2)[before:]
    assert one['confidence'] == other['confidence'] and one['label'] == other['label']


def test_the_log_says_what_it_stores(served):
    service, log = served
    about = json.loads((log / 'about.json').read_text())
    assert about['keys'] == KEYS | TEXTS and about['texts'] and about['share'] == 1
    stored = {key for line in lines_of(service, log, 0) for key in line}
    assert stored <= about['keys'].keys()
    assert os.stat(log).st_mode & 0o077 == 0  # others cannot read what people wrote


@pytest.mark.slow
def test_it_is_off_unless_asked_for_and_holds_a_share_without_texts(opened, folder, tmp_path):
    assert ServerSettings(token=None).log is None
    with started(opened, folder, log=str(tmp_path / 'log'), log_share=0.5) as service:
        drawn = iter([0.1, 0.9, 0.4, 0.6, 0.5])
        service.telemetry._draw = drawn.__next__
        for _ in range(5):
            assert asyncio.run(classify(service))[0] == 200
        records = lines_of(service, tmp_path / 'log', 2)
    assert len(records) == 2 and not {'inputs', 'answer'} & {*records[0]}
    about = json.loads((tmp_path / 'log' / 'about.json').read_text())
    assert about['keys'] == KEYS and not about['texts']


@pytest.mark.slow
def test_what_a_prompt_writes_is_counted_in_words_and_kept_where_texts_are(opened, folder,
                                                                           tmp_path):
    with started(opened, folder, log=str(tmp_path / 'log'), log_share=1.0,
                 log_texts=True) as service:
        _, answer = asyncio.run(ask(service, 'POST', '/v1/generate', {
            'prompt': 'title', 'inputs': 'film'}))
        record, = lines_of(service, tmp_path / 'log', 1)
    assert record['answer'] == answer['text'] and record['words'] == len(answer['text'].split())


def write(folder, count, limit, **record):
    with RequestLog(str(folder), 1.0, limit, False) as log:
        for number in range(count):
            log.write({'number': number, **record})
    return log


def test_the_oldest_lines_go_where_the_limit_is_reached(tmp_path):
    log = write(tmp_path, 500, 8000, filler='x' * 50)
    assert (log.written, log.dropped) == (500, 0)
    files = list(tmp_path.glob('requests.*.jsonl*'))
    assert len(files) == 8 and sum(file.stat().st_size for file in files) <= 8000
    kept = sorted(json.loads(line)['number'] for file in files
                  for line in file.read_text().splitlines())
    assert kept == list(range(500 - len(kept), 500)) and len(kept) > 40
    assert not list(tmp_path.glob('*.lock'))


def test_it_goes_on_behind_what_is_there(tmp_path):
    write(tmp_path, 2, 10**6)
    write(tmp_path, 3, 10**6)
    file, = tmp_path.glob('requests.*.jsonl*')
    assert len(file.read_text().splitlines()) == 5


def test_a_disk_that_cannot_be_written_costs_lines_and_is_said_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), RequestLog(str(tmp_path), 1.0, 10**6, False) as log:
        log._path.mkdir()
        log.write({'number': 1})
        log.write({'number': 2})
    assert (log.written, log.dropped) == (0, 2)
    assert caplog.text.count('cannot be written, and loses lines: ') == 1


def test_lines_that_the_disk_is_too_slow_for_are_lost_and_counted(tmp_path):
    log = RequestLog(str(tmp_path), 1.0, 10**6, False)  # nothing takes lines from the queue
    for number in range(1010):
        log.write({'number': number})
    assert log.dropped == 10


def test_two_servers_of_a_machine_do_not_write_the_same_log(tmp_path):
    with RequestLog(str(tmp_path), 1.0, 10**6, False):
        with pytest.raises(ValueError, match='is writing the log of requests'):
            RequestLog(str(tmp_path), 1.0, 10**6, False).__enter__()


@pytest.mark.parametrize('share', [0.0, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=f'log_share={share} for the server; expected more than'):
        ServerSettings(token=None, log_share=share)


def test_each_metric_that_the_dashboard_asks_for_is_there(served):
    service, _ = served
    dashboard = json.loads((ROOT / 'docs/grafana.json').read_text())
    known = set()
    for name, kind in re.findall(r'^# TYPE (\S+) (\w+)$', service.metrics.text().decode(), re.M):
        ends = ('_bucket', '_sum', '_count') if kind == 'histogram' else ('',)
        known |= {name + end for end in ends}
    asked = {name for panel in dashboard['panels'] for target in panel['targets']
             for name in re.findall(r'jax_prompt_\w+', target['expr'])}
    assert len(asked) > 15 and asked <= known, asked - known
    variable = dashboard['templating']['list'][1]['query']
    assert set(re.findall(r'jax_prompt_\w+', variable)) <= known
