"""The table of all benchmarks says what the runs say."""

import importlib
import json
import pathlib

import pytest

table = importlib.import_module('benchmarks.__main__')


def run(figure='ranking', unit='examples/s', commit='aaa', date='2026-11-29', **values):
    return {'figure': figure, 'unit': unit, 'values': values, 'commit': commit, 'date': date,
            'machine': '2 x EPYC', 'units': ['avx512f'], 'load': 0.1}


def test_a_ratio_is_to_the_best_of_the_others_whichever_way_is_better():
    assert table.ratio(run(jax_prompt=30.0, PEFT=10.0, other=15.0)) == 2.0
    assert table.ratio(run(unit='s', jax_prompt=2.0, PEFT=10.0, other=8.0)) == 4.0
    assert table.ratio(run(jax_prompt=30.0)) is None


def test_the_table_has_the_newest_run_and_the_ratios_before_it(tmp_path, monkeypatch):
    page = tmp_path / 'RESULTS.md'
    page.write_text(f'# Results\n\n{table.BEGIN}\nold\n{table.END}\n\nmore\n')
    monkeypatch.setattr(table, 'RESULTS', page)
    runs = [run(jax_prompt=20.0, PEFT=10.0), run(commit='bbb', jax_prompt=33.0, PEFT=11.0),
            run('start', 's', jax_prompt=2.5)]
    for _ in range(2):  # written over, not added to
        table.write_table(runs)
    lines = page.read_text().splitlines()
    assert [line for line in lines if line.startswith('| ranking')] == [
        '| ranking, examples/s | 33 | PEFT 11 | **3.00** | 2.00 (aaa) | '
        '2026-11-29, bbb, 2 x EPYC, avx512f, load 0.1 |']
    assert sum(line.startswith('| start, s | 2.5 |  |  |') for line in lines) == 1
    assert lines[0] == '# Results' and lines[-1] == 'more' and 'old' not in lines


def test_what_a_command_records_is_kept_with_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(table, 'RUNS', tmp_path / 'runs')
    monkeypatch.setitem(table.COMMANDS, 'results', ('no_such_package',))

    def command(words, env, check):
        with open(env[table.VARIABLE], 'a') as file:
            file.write(json.dumps({'figure': words[-1], 'unit': 's',
                                   'values': {'jax_prompt': next(seconds)}}) + '\n')
        return type('Done', (), {'returncode': 0})

    seconds = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(table.subprocess, 'run', lambda words, **options: (
        command(words, **options) if 'env' in options else type('Done', (), {'stdout': 'abc'})))
    table.measure(['serving', 'results'], 3)
    (path,) = (tmp_path / 'runs').iterdir()
    kept = json.loads(path.read_text())
    assert kept['values'] == {'jax_prompt': 2.0} and len(kept['rounds']) == 3
    assert kept['commit'] == 'abc' and kept['command'] == 'python -m benchmarks.serving'
    assert kept['machine'] and isinstance(kept['units'], list)


@pytest.mark.parametrize('words', table.COMMANDS)
def test_each_command_is_there_and_records_what_it_finds(words):
    module = pathlib.Path(table.FOLDER, f'{words.split()[0]}.py').read_text()
    assert 'record(' in module
