"""SuperGLUE on few real records: are the texts T5's, and does all of it run in one command.

    python -m benchmarks.superglue --data=FOLDER [--steps=8] [--output=runs/superglue_few]

Further arguments, such as --gin.model.dtype=bfloat16, go to the command.

FOLDER/superglue_few holds FewGLUE's records (Schick and Schuetze 2020): 32 of each task in the
official format. Each record's text is compared with T5's rules, restated here over the official
columns (google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py); then 24
records of a task are trained on, the other 8 validated on, and all answered without their labels.
"""

import argparse
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from jax_prompt import cli
from jax_prompt.data.tasks.benchmarks import benchmark_task

_TRUE = {True: 'True', False: 'False'}


def _plain(name: str, columns: tuple[str, ...], words: Callable[[Any], str]) -> Callable:
    """Restate T5's `glue`: the name, then each column's name and text."""
    def texts(record: dict) -> Iterator[tuple[str, str]]:
        shown = ' '.join(f'{column}: {record[column]}' for column in columns)
        yield f'{name} {shown}', words(record['label'])
    return texts


def _multirc(record: dict) -> Iterator[tuple[str, str]]:
    """Restate what `glue` does with MultiRC: an example an answer, HTML's marks taken out."""
    for question in record['passage']['questions']:
        for answer in question['answers']:
            text = (f'multirc question: {question["question"]} answer: {answer["text"]} paragraph: '
                    f'{record["passage"]["text"]}')
            yield re.sub('<(/)?b>', '', re.sub('<br>', ' ', text)), _TRUE[bool(answer['label'])]


def _record(record: dict) -> Iterator[tuple[str, str]]:
    """Restate `record`: an example a spelling of the answer, highlights joined to the passage."""
    text = record['passage']['text']
    entities = sorted({text[one['start']:one['end'] + 1] for one in record['passage']['entities']})
    passage = re.sub(r'(\.|\?|\!|\"|\')\n@highlight\n', r'\1 ', text)
    passage = re.sub(r'\n@highlight\n', '. ', passage)
    for query in record['qas']:
        for answer in sorted({one['text'] for one in query['answers']}):
            yield (f'record query: {query["query"]} entities: {", ".join(entities)} passage: '
                   f'{passage}', answer)


def _spans(record: dict) -> tuple[str, int, str, int]:
    """Restate TFDS's `wsc.fixed`: the case of a span is that of its word in the text."""
    target = record['target']

    def mended(span: str) -> str:
        text = target[f'{span}_text']
        if text in record['text']:
            return text
        lower = record['text'].split()[target[f'{span}_index']][0].islower()
        return (text[0].lower() if lower else text[0].upper()) + text[1:].rstrip('.')

    return mended('span1'), target['span1_index'], mended('span2'), target['span2_index']


def _wsc(record: dict) -> Iterator[tuple[str, str]]:
    """Restate `wsc_simple`: right referents alone, the pronoun between stars."""
    noun, _, pronoun, at = _spans(record)
    if record['label']:
        words = record['text'].split(' ')
        if words[at] != pronoun:  # the two texts that T5 mends by hand have a comma there
            head, tail = record['text'].rstrip(' ').rsplit(pronoun, 1)
            yield f'wsc: {head}*{pronoun}* {tail}', noun
            return
        yield ' '.join(['wsc:', *words[:at], f'*{pronoun}*', *words[at + 1:]]), noun


def _wsc_ranking(record: dict) -> Iterator[tuple[str, str]]:
    """Restate `wsc`: the noun between stars, the pronoun between hashes."""
    noun, at_noun, pronoun, at = _spans(record)
    text = record['text']
    for span, index, mark in ((noun, at_noun, '*'), (pronoun, at + 2 * (at_noun < at), '#')):
        text = re.sub(rf'^((?:\S+\s){{{index}}})({re.escape(span)})', rf'\1{mark} \2 {mark}', text)
    yield f'wsc text: {text}', _TRUE[record['label']]


#: Task -> (file of the records, T5's rule).
RULES = {
    'boolq': ('BoolQ', _plain('boolq', ('passage', 'question'), _TRUE.get)),
    'cb': ('CB', _plain('cb', ('hypothesis', 'premise'), str)),
    'copa': ('COPA', _plain('copa', ('choice1', 'choice2', 'premise', 'question'),
                            lambda label: f'choice{label + 1}')),
    'multirc': ('MultiRC', _multirc),
    'record': ('ReCoRD', _record),
    'rte': ('RTE', _plain('rte', ('hypothesis', 'premise'), str)),
    'wic': ('WiC', _plain('wic', ('sentence1', 'sentence2', 'word'), _TRUE.get)),
    'wsc': ('WSC', _wsc),
    'wsc_ranking': ('WSC', _wsc_ranking),
}


def compare(few: pathlib.Path, folder: pathlib.Path) -> None:
    """Compare the text of all records with T5's rules."""
    for name, (file, rule) in RULES.items():
        lines = (few / f'{file}.jsonl').read_text().splitlines()
        (folder / file).mkdir(parents=True, exist_ok=True)
        (folder / file / 'train.jsonl').write_text('\n'.join(lines) + '\n')
        expected = [pair for line in lines for pair in rule(json.loads(line))]
        found = list(benchmark_task(f'super_glue_{name}', str(folder)).texts('train'))
        if found != expected:
            wrong = next(pair for pair in zip(found, expected, strict=False) if len({*pair}) > 1)
            raise SystemExit(f'{name}: {wrong[0]!r} is not {wrong[1]!r}')
        print(f'{name}: {len(lines)} records, {len(found)} examples, each the text of T5')


def divide(few: pathlib.Path, folder: pathlib.Path) -> None:
    """Write official folders: 24 records to train on, 8 to validate on, all to answer."""
    for file, _ in RULES.values():
        records = [json.loads(line) for line in (few / f'{file}.jsonl').read_text().splitlines()]
        parts = {'train': records[:24], 'val': records[24:],
                 'test': [_without_labels(record) for record in records]}
        (folder / file).mkdir(parents=True, exist_ok=True)
        for split, part in parts.items():
            (folder / file / f'{split}.jsonl').write_text(
                ''.join(json.dumps(record) + '\n' for record in part))


def _without_labels(record: Any) -> Any:
    """Take labels and answers to queries out of a record, as the leaderboard's test has none."""
    if isinstance(record, list):
        return [_without_labels(one) for one in record]
    if not isinstance(record, dict):
        return record
    return {name: _without_labels(value) for name, value in record.items()
            if name != 'label' and not (name == 'answers' and 'query' in record)}


def main() -> None:
    """Compare the texts, then run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', required=True, type=pathlib.Path)
    parser.add_argument('--steps', type=int, default=8)
    parser.add_argument('--output', type=pathlib.Path, default=pathlib.Path('runs/superglue_few'))
    args, more = parser.parse_known_args()
    few = args.data / 'superglue_few'
    if not few.is_dir():
        raise SystemExit(f'{few} is not there; expected FewGLUE\'s records, BoolQ.jsonl and so on')
    folder = args.output / 'data'
    compare(few, folder)
    shutil.rmtree(folder)
    divide(few, folder)
    raise SystemExit(cli.main([
        'train', '--gin_file=superglue.gin', '--gin_file=models/demo.gin', f'--data_dir={folder}',
        f'--output={args.output / "run"}', f'--gin.settings.steps={args.steps}',
        f'--gin.settings.evaluate_every={args.steps}', '--gin.settings.batch_size=8',
        '--gin.settings.max_buckets=1', '--gin.prompt.rows=20', *more]))


if __name__ == '__main__':
    main()
