"""SQuAD 1.1 and the MRQA 2019 shared task, in T5's text format for questions with a context.

The format is that of T5's published `squad` (t5/data/preprocessors.py), which the first
prompt-tuning code gave MRQA too: spaces around ASCII's punctuation. Before April 2022 T5 put them
around all but ASCII's letters, digits and underscore, and so split words at their accents. Lester
et al. (2021, section 5) train on SQuAD and measure on MRQA's sets out of domain.

"""

import json
import re
import string
from collections.abc import Iterable, Iterator

from jax_prompt.data.tasks.definition import Columns, TaskDefinition
from jax_prompt.data.tasks.rows import Row, decode, read_rows
from jax_prompt.files import first_line

_TEMPLATE = 'question: {question} context: {context}'
#: What RE2, by which T5's pattern is read, takes for white space.
_SPACES = re.compile('[\t\n\f\r ]+')
_PUNCTUATION = re.compile(f'([{re.escape(string.punctuation)}])')


def spaced(text: str) -> str:
    """Put spaces around punctuation, as T5's `_pad_punctuation` does."""
    return _SPACES.sub(' ', _PUNCTUATION.sub(r' \1 ', text))


def _texts(columns: Columns, split: str) -> Iterable[Columns]:
    """Space the texts out; the first of several answers is what is trained on."""
    answers = columns['answers']
    answers = [*map(spaced, answers['text'] if isinstance(answers, dict) else answers)]
    row = {**columns, 'question': spaced(columns['question']).strip(' '),
           'context': spaced(columns['context']).lstrip(' '), 'answers': answers}
    yield row | ({'target': answers[0]} if answers else {})


def _read_squad(path: str) -> Iterator[Row]:
    """Read the official file: one JSON object for all articles."""
    if not path.endswith('.json'):
        yield from read_rows(path)
        return
    with open(path, 'rb') as file:
        text = decode(file.read(), path, is_first=True)
    try:
        articles = json.loads(text)['data']
        for article in articles:
            for number, paragraph in enumerate(article['paragraphs'], 1):
                for query in paragraph['qas']:
                    yield Row({
                        'id': query['id'], 'title': article.get('title', ''),
                        'context': paragraph['context'], 'question': query['question'],
                        'answers': {'text': [one['text'] for one in query['answers']],
                                    'answer_start': [one['answer_start']
                                                     for one in query['answers']]},
                    }, f'{path} question {query["id"]} (paragraph {number} of '
                       f'{article.get("title", "an article")!r})')
    except ValueError as error:
        raise ValueError(f'{path} is not whole JSON: {first_line(error)}') from None
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path} is no file of SQuAD 1.1: {error!r} is not there; expected '
                         'data, paragraphs, qas and answers') from None


def _alike(one: str, other: str) -> bool:
    """Say whether two names are of one set, such as NaturalQuestions and ...Short."""
    one, other = one.lower(), other.lower()
    return one.startswith(other) or other.startswith(one)


def _mrqa(name: str, official: str, in_domain: bool) -> TaskDefinition:
    """Define one of MRQA's sets; out of domain there is a test alone."""
    splits = ('train', 'validation') if in_domain else ('test',)
    file = f'{official}.jsonl'

    def records(record: Columns) -> Iterable[Columns]:
        """Give the questions of an official paragraph; of the hub's mixture, those of this set."""
        of = record['header']['dataset'] if 'header' in record else record.get('subset', official)
        if not _alike(of, official) and 'header' in record:
            raise ValueError(f'the file is of {of}; expected {official}')
        if not _alike(of, official) or 'header' in record:
            return
        questions = record.get('qas', (record,))
        for one in questions:
            yield {'qid': one['qid'], 'question': one['question'].strip(),
                   'context': record['context'].strip(), 'answers': list(one['answers'])}

    return TaskDefinition(
        name=f'mrqa_{name}', template=_TEMPLATE, target='target', splits={s: s for s in splits},
        files={'train': (f'train/{file}',), 'validation': (f'dev/{file}', f'validation/{file}'),
               'test': (f'dev/{file}', f'test/{file}')},
        folders=('MRQA', 'mrqa', 'mrqa/plain_text'), tfds=f'mrqa/{name}', records=records,
        arrange=_texts, golds='answers', metrics=('squad',), targets_length=32)


SQUAD = (
    TaskDefinition(
        name='squad', template=_TEMPLATE, target='target',
        splits={'train': 'train', 'validation': 'validation'}, read=_read_squad,
        files={'train': ('train-v1.1.json',), 'validation': ('dev-v1.1.json',)},
        folders=('SQuAD', 'squad', 'squad/plain_text'), tfds='squad/v1.1', arrange=_texts,
        golds='answers', metrics=('squad',), targets_length=32),
)

MRQA = (
    _mrqa('squad', 'SQuAD', in_domain=True),
    _mrqa('news_qa', 'NewsQA', in_domain=True),
    _mrqa('trivia_qa', 'TriviaQA-web', in_domain=True),
    _mrqa('search_qa', 'SearchQA', in_domain=True),
    _mrqa('hotpot_qa', 'HotpotQA', in_domain=True),
    _mrqa('natural_questions', 'NaturalQuestionsShort', in_domain=True),
    _mrqa('bio_asq', 'BioASQ', in_domain=False),
    _mrqa('drop', 'DROP', in_domain=False),
    _mrqa('duo_rc', 'DuoRC.ParaphraseRC', in_domain=False),
    _mrqa('race', 'RACE', in_domain=False),
    _mrqa('relation_extraction', 'RelationExtraction', in_domain=False),
    _mrqa('textbook_qa', 'TextbookQA', in_domain=False),
)
