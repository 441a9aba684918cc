"""Run all benchmarks that this machine can, in turns, and rewrite the table of `RESULTS.md`.

    python -m benchmarks [--rounds=3] [--only=WORD] [--table_alone]

Each command runs once a round, one after the other, so that a machine's moods meet all alike; a
figure is the median of its rounds. What each run told stays in `runs/`, a line of JSON a figure
with the date, the commit, the machine and its units; the table has the newest of each figure and
machine, and how its ratio went from commit to commit.
"""

import argparse
import collections
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile

from benchmarks.results import VARIABLE

FOLDER = pathlib.Path(__file__).parent
RESULTS, RUNS = FOLDER / 'RESULTS.md', FOLDER / 'runs'
DRAWING = FOLDER.parent / 'docs' / 'benchmarks.svg'
BEGIN, END = '<!-- begin: written by python -m benchmarks -->', '<!-- end -->'
#: Words of a command -> packages that it needs. What is left out needs an accelerator or hours.
COMMANDS = {
    'first_answer': ('torch', 'peft'),
    'seconds_to_accuracy': ('torch', 'peft'),
    'against_peft reviews': ('torch', 'peft'),
    'against_peft fixed': ('torch', 'peft'),
    'generation --dtype=float32': ('torch', 'peft'),
    'generation --dtype=bfloat16': ('torch', 'peft'),
    'generation --dtype=float32 --batch_size=1': ('torch', 'peft'),
    'serving': (),
    'serving --writing=2': (),
    'bucketing': (),
    'packing': (),
    'mixed_tasks': (),
}
#: What of a processor's flags decides how fast it multiplies.
UNITS = ('avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'asimd', 'sve', 'bf16')
_PACKAGES = ('jax', 'flax', 'torch', 'peft', 'transformers')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--only', default='', help='run the commands that have this in them')
    parser.add_argument('--table_alone', action='store_true', help='measure nothing')
    args = parser.parse_args()
    if not args.table_alone:
        measure([words for words in COMMANDS if args.only in words], args.rounds)
    runs = [json.loads(line) for path in sorted(RUNS.glob('*.jsonl'))
            for line in path.read_text(encoding='utf-8').splitlines()]
    write_table(runs)
    draw(runs)


def measure(commands: list[str], rounds: int) -> None:
    """Run commands in turns, and keep the medians of what they tell."""
    missing = {words: [name for name in COMMANDS[words] if not importlib.util.find_spec(name)]
               for words in commands}
    found = collections.defaultdict(list)
    for words in [one for _ in range(rounds) for one in commands if not missing[one]]:
        print(f'$ python -m benchmarks.{words}', flush=True)
        with tempfile.NamedTemporaryFile('r', encoding='utf-8') as told:
            code = subprocess.run([sys.executable, '-m', *f'benchmarks.{words}'.split()],
                                  env=os.environ | {VARIABLE: told.name}, check=False).returncode
            if code:
                print(f'benchmarks.{words} ended with {code}', file=sys.stderr)
            for line in told:
                one = json.loads(line)
                found[words, one['figure'], one['unit']].append(one['values'])
    for words, names in missing.items():
        if names:
            print(f'benchmarks.{words} needs {", ".join(names)}: left out', file=sys.stderr)
    RUNS.mkdir(exist_ok=True)
    now, about = datetime.datetime.now(datetime.UTC), machine()
    with open(RUNS / f'{now:%Y-%m-%dT%H%M%S}.jsonl', 'a', encoding='utf-8') as file:
        for (words, figure, unit), values in found.items():
            medians = {name: statistics.median(one[name] for one in values) for name in values[0]}
            file.write(json.dumps({'date': f'{now:%Y-%m-%d}', 'figure': figure, 'unit': unit,
                                   'values': medians, 'rounds': values,
                                   'command': f'python -m benchmarks.{words}', **about}) + '\n')


def machine() -> dict:
    """Return what a figure depends on: commit, versions, processor, its units, other work."""
    names = [re.sub(r'.*: *', '', line) for line in _lines('/proc/cpuinfo')
             if line.startswith('model name')]
    flags = {word for line in _lines('/proc/cpuinfo') if re.match('flags|Features', line)
             for word in line.split()}
    commit = subprocess.run(['git', 'log', '-1', '--format=%h'], cwd=FOLDER, capture_output=True,
                            text=True, check=False).stdout.strip()
    versions = {}
    for name in _PACKAGES:
        if importlib.util.find_spec(name):
            versions[name] = importlib.metadata.version(name)
    return {'commit': commit, 'machine': f'{os.cpu_count()} x '
            f'{names[0] if names else platform.machine()}', 'load': os.getloadavg()[1],
            'units': [unit for unit in UNITS if unit in flags], 'versions': versions}


def _lines(path: str) -> list[str]:
    return pathlib.Path(path).read_text().splitlines() if os.path.exists(path) else []


def ratio(run: dict) -> float | None:
    """Return how many times as good ours is as the best peer; None where there is no peer."""
    ours = run['values'].get('jax_prompt')
    peers = [value for name, value in run['values'].items() if name != 'jax_prompt']
    if ours is None or not peers:
        return None
    return min(peers) / ours if run['unit'] == 's' else ours / max(peers)


def write_table(runs: list[dict]) -> None:
    """Put the newest run of each figure and machine between the marks of the page."""
    histories = collections.defaultdict(list)
    for run in runs:
        histories[run['figure'], run['machine'], ' '.join(run['units'])].append(run)
    rows = ['| figure | jax_prompt | others | ratio to the best of them | earlier | measured |',
            '| --- | --- | --- | --- | --- | --- |']
    for (figure, where, units), history in sorted(histories.items()):
        run, values = history[-1], history[-1]['values']
        others = ', '.join(f'{name} {value:.4g}' for name, value in values.items()
                           if name != 'jax_prompt')
        earlier = ', '.join(f'{ratio(one):.2f} ({one["commit"]})' for one in history[:-1]
                            if ratio(one) is not None)
        rows.append(f'| {figure}, {run["unit"]} | {values.get("jax_prompt", 0):.4g} | {others} | '
                    f'{"" if ratio(run) is None else f"**{ratio(run):.2f}**"} | {earlier} | '
                    f'{run["date"]}, {run["commit"]}, {where}, {units or "no units"}, load '
                    f'{run["load"]:.1f} |')
    text = RESULTS.read_text(encoding='utf-8')
    before, rest = text.split(BEGIN)
    RESULTS.write_text(f'{before}{BEGIN}\n\n' + '\n'.join(rows) + f'\n\n{END}'
                       + rest.split(END, 1)[1], encoding='utf-8')


def draw(runs: list[dict]) -> None:
    """Draw the ratios from run to run, a line a figure and machine."""
    import matplotlib
    matplotlib.use('svg')
    matplotlib.rcParams['svg.hashsalt'] = 'the same picture of the same numbers'
    import matplotlib.pyplot as plt
    histories = collections.defaultdict(list)
    for run in runs:
        if ratio(run) is not None:
            histories[run['figure'], run['machine']].append(run)
    commits = list(dict.fromkeys(run['commit'] for run in runs))
    figure, axes = plt.subplots(figsize=(9, 5), layout='constrained')
    for (name, where), history in sorted(histories.items()):
        axes.plot([commits.index(run['commit']) for run in history],
                  [ratio(run) for run in history], marker='o', label=f'{name} ({where})')
    axes.axhline(1, color='grey', linewidth=0.8)
    axes.set_xticks(range(len(commits)), commits, rotation=45, fontsize=7)
    axes.set_ylabel('times the best of the others')
    if histories:
        figure.legend(loc='outside lower center', fontsize=6, ncols=2)
    figure.savefig(DRAWING, metadata={'Date': None})


if __name__ == '__main__':
    main()
