"""SuperGLUE (Wang et al. 2019): eight tasks and two diagnostics, in T5's text formats.

The formats are those of T5's published preprocessors (google-research/text-to-text-transfer-
transformer, t5/data/preprocessors.py: `glue`, `wsc`, `wsc_simple`, `record`; which task has which
is in t5/data/glue_utils.py): the task's name, then each column's name and text, columns sorted by
name but for MultiRC and WiC.
"""

import re
from collections.abc import Iterable

from jax_prompt.data.tasks.definition import HIDDEN_TEST, Columns, TaskDefinition
from jax_prompt.data.tasks.rows import GROUP

_FALSE_TRUE = ('False', 'True')
_BOOLEANS = {'false': 'False', 'true': 'True'}
_ENTAILMENT = ('entailment', 'not_entailment')
_FILES = {'train': ('train.jsonl',), 'validation': ('val.jsonl', 'dev.jsonl', 'validation.jsonl'),
          'test': ('test.jsonl',)}

#: Texts whose span2_index does not lead to the pronoun, and how `_wsc_inputs` of T5 has them.
_WSC_MISPLACED = {
    'The boy continued to whip the pony , and eventually the pony threw him over. John laughed out '
    'quite loud. "Good for him," he said. ':
        'The boy continued to whip the pony , and eventually the pony threw him over. John laughed '
        'out quite loud. "Good for X ," he said.',
    'When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the magic '
    'pebble in an iron safe . Some day they might want to use it , but really for now, what more '
    'could they wish for?':
        'When they had eventually calmed down a bit , and had gotten home, Mr. Farley put the '
        'magic pebble in an iron safe . Some day they might want to use X , but really for now, '
        'what more could they wish for?',
}
#: Whose parts stand apart in the text, so that TFDS leaves them as they are.
_WSC_APART = ('Kamenev and Zinoviev', 'Kamenev, Zinoviev, and Stalin')


def _multirc(record: Columns) -> Iterable[Columns]:
    """Give each answer of each question of a passage."""
    if not isinstance(record.get('passage'), dict):
        yield record
        return
    passage = record['passage']
    for question in passage['questions']:
        for answer in question['answers']:
            label = answer.get('label')
            yield {'paragraph': passage['text'], 'question': question['question'],
                   'answer': answer['text'], 'label': None if label is None else int(label),
                   'idx': {'paragraph': record['idx'], 'question': question['idx'],
                           'answer': answer['idx']}}


def _without_markup(columns: Columns, split: str) -> Iterable[Columns]:
    """Take HTML's breaks and bold letters out, as T5 does; group answers by question."""
    texts = {name: re.sub('</?b>', '', columns[name].replace('<br>', ' '))
             for name in ('paragraph', 'question', 'answer')}
    idx = columns['idx']
    yield {**columns, **texts, GROUP: f'{idx["paragraph"]}-{idx["question"]}'}


def _record(record: Columns) -> Iterable[Columns]:
    """Give each query of a passage, with each spelling of its entities and answers once."""
    if 'qas' not in record:
        yield {**record, 'entities': sorted(set(record['entities'])),
               'answers': sorted(set(record['answers']))}
        return
    passage = record['passage']
    text = passage['text']
    entities = {text[one['start']:one['end'] + 1] for one in passage['entities']}
    for query in record['qas']:
        yield {'passage': text, 'query': query['query'], 'entities': sorted(entities),
               'answers': sorted({one['text'] for one in query.get('answers', ())}),
               'idx': {'passage': record['idx'], 'query': query['idx']}}


def _record_texts(columns: Columns, split: str) -> Iterable[Columns]:
    """Join highlights to the passage, and train on each of several answers.

    T5 evaluates an example an answer as well, and then counts each query once; here a query is
    evaluated once.
    """
    passage = re.sub(r'([.?!"\'])\n@highlight\n', r'\1 ', columns['passage'])
    row = {**columns, 'passage': passage.replace('\n@highlight\n', '. '),
           'entities': ', '.join(columns['entities']), 'answers': list(columns['answers']),
           GROUP: f'{columns["idx"]["passage"]}-{columns["idx"]["query"]}'}
    answers = columns['answers'] if split == 'train' else columns['answers'][:1]
    yield from ({**row, 'target': answer} for answer in answers)
    if not answers:
        yield row


def _wsc(record: Columns) -> Iterable[Columns]:
    """Flatten the target, and mend spans that are not in the text, as TFDS's wsc.fixed does."""
    columns = {**record, **record.get('target', {})}
    columns.pop('target', None)
    for span in ('span1', 'span2'):
        text = columns[f'{span}_text']
        if text in columns['text'] or text in _WSC_APART:
            continue
        if 'theyscold' in text:
            columns['span2_index'] = 10
        case = columns['text'].split()[columns[f'{span}_index']][0].islower()
        text = (text[0].lower() if case else text[0].upper()) + text[1:]
        columns[f'{span}_text'] = text.rstrip('.').replace('\n', ' ')
    yield columns


def _wsc_ranking_texts(columns: Columns, split: str) -> Iterable[Columns]:
    """Mark the noun by * and the pronoun by #, as T5's `wsc` does."""
    def mark(text: str, span: str, index: int, sign: str) -> str:
        return re.sub(rf'^((?:\S+\s){{{index}}})({re.escape(span)})',
                      lambda found: f'{found[1]}{sign} {found[2]} {sign}', text, flags=re.ASCII)

    noun, pronoun = columns['span1_index'], columns['span2_index']
    text = mark(columns['text'], columns['span1_text'], noun, '*')
    # The two signs around the noun are words too.
    marked = mark(text, columns['span2_text'], pronoun + 2 * (noun < pronoun), '#')
    yield {**columns, 'marked': marked}


def _wsc_texts(columns: Columns, split: str) -> Iterable[Columns]:
    """Mark the pronoun by stars; train on right referents alone, as T5's `wsc_simple` does."""
    if split == 'train' and columns.get('label') != 'True':
        return
    words, at = columns['text'].split(' '), columns['span2_index']
    pronoun = columns['span2_text']
    blanked = _WSC_MISPLACED.get(columns['text'])
    if blanked is None:
        if not 0 < at < len(words) or words[at] != pronoun:
            raise ValueError(f'word {at} of the text is not the pronoun {pronoun!r} that '
                             'span2_text names; mend span2_index')
        blanked = ' '.join([' '.join(words[:at]), 'X', ' '.join(words[at + 1:])])
    yield {**columns, 'marked': blanked.replace(' X ', f' *{pronoun}* ')}


def _axb(record: Columns) -> Iterable[Columns]:
    """Call the sentences what RTE calls them."""
    yield {**record, 'premise': record['sentence1'], 'hypothesis': record['sentence2']}


def _diagnostic(name: str, folder: str, **more) -> TaskDefinition:
    """Define a diagnostic set, which RTE's prompt answers."""
    return TaskDefinition(
        name=f'super_glue_{name}', prefix='rte ', labels=_ENTAILMENT, values=_ENTAILED,
        template='hypothesis: {hypothesis} premise: {premise}', splits={'test': 'test'},
        files={'test': (f'{folder}.jsonl',)}, folders=(f'super_glue/{name}', folder, name),
        tfds=f'super_glue/{name}', **more)


def _task(name: str, folder: str, template: str, **more) -> TaskDefinition:
    """Define a task of SuperGLUE, whose folders and files are named alike."""
    told = {'labels': _FALSE_TRUE, 'values': _BOOLEANS, 'prefix': f'{name} ', 'files': _FILES,
            'folders': (folder, f'super_glue/{name}', name), 'tfds': f'super_glue/{name}',
            'splits': HIDDEN_TEST}
    return TaskDefinition(name=f'super_glue_{name}', template=template, **(told | more))


#: AX-g's own files call the second class so in some releases.
_ENTAILED = {'not entailment': 'not_entailment'}
_WSC_SOURCE = {'folders': ('WSC', 'super_glue/wsc.fixed', 'super_glue/wsc', 'wsc.fixed', 'wsc'),
               'tfds': 'super_glue/wsc.fixed', 'records': _wsc}

SUPER_GLUE = (
    _task('boolq', 'BoolQ', 'passage: {passage} question: {question}'),
    _task('cb', 'CB', 'hypothesis: {hypothesis} premise: {premise}',
          labels=('entailment', 'contradiction', 'neutral'), metrics=('accuracy', 'macro_f1')),
    _task('copa', 'COPA',
          'choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}',
          labels=('choice1', 'choice2')),
    _task('multirc', 'MultiRC',
          'question: {question} answer: {answer} paragraph: {paragraph}',
          records=_multirc, arrange=_without_markup, metrics=('multirc',)),
    _task('record', 'ReCoRD', 'query: {query} entities: {entities} passage: {passage}',
          labels=None, target='target', golds='answers', records=_record,
          arrange=_record_texts, metrics=('record',), targets_length=32),
    _task('rte', 'RTE', 'hypothesis: {hypothesis} premise: {premise}', labels=_ENTAILMENT),
    _task('wic', 'WiC', 'sentence1: {sentence1} sentence2: {sentence2} word: {word}'),
    # T5 generates the noun that the pronoun stands for; Lester et al. do too.
    _task('wsc', 'WSC', '{marked}', **_WSC_SOURCE, prefix='wsc: ', target='span1_text',
          labels=None, classes=_FALSE_TRUE, arrange=_wsc_texts, metrics=('wsc',),
          targets_length=16),
    _task('wsc_ranking', 'WSC', 'text: {marked}', **_WSC_SOURCE, prefix='wsc ',
          arrange=_wsc_ranking_texts),
    _diagnostic('axb', 'AX-b', records=_axb, metrics=('matthews',)),
    _diagnostic('axg', 'AX-g'),
)
