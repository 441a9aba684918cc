"""Hand-written records of every benchmark's task, in each form, and the text that T5 makes of them.

The inputs and targets were worked out by hand from t5/data/preprocessors.py of T5's repository.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Golden:
    """Records of a task's split, the same in each form.

    Attributes:
        official: file below the data's folder -> its content; lists are lines of JSON.
        tfds: the examples as TFDS has them.
        pairs: what shall be made of them.
        hub: the examples as the hub has them, where that differs from TFDS.
        split: of which they are.
    """

    official: Mapping[str, Any]
    tfds: list[dict[str, Any]]
    pairs: list[tuple[str, str]]
    hub: list[dict[str, Any]] | None = None
    split: str = 'train'

    def files(self):
        """Yield (name, content in bytes) of the official files."""
        for name, content in self.official.items():
            if isinstance(content, list):
                content = ''.join(json.dumps(record) + '\n' for record in content)
            yield name, content.encode()


def table(*lines):
    """Return lines of a TSV file."""
    return ''.join('\t'.join(line.split('|')) + '\n' for line in lines)


def numbered(*rows, **names):
    """Return rows with `idx`."""
    return [{**row, 'idx': number} for number, row in enumerate(rows)]


GLUE = {
    'glue_cola': Golden(
        {'CoLA/train.tsv': table('gj04|1||The rose "wilted.', 'gj04|0|*|Him saw she.')},
        numbered({'sentence': 'The rose "wilted.', 'label': 1},
                 {'sentence': 'Him saw she.', 'label': 0}),
        [('cola sentence: The rose "wilted.', 'acceptable'),
         ('cola sentence: Him saw she.', 'unacceptable')]),
    'glue_sst2': Golden(
        {'SST-2/train.tsv': table('sentence|label', 'a warm , slow film |1', 'dull|0')},
        numbered({'sentence': 'a warm , slow film ', 'label': 1}, {'sentence': 'dull', 'label': 0}),
        [('sst2 sentence: a warm , slow film ', 'positive'), ('sst2 sentence: dull', 'negative')]),
    'glue_mrpc': Golden(
        {'MRPC/train.tsv': '\ufeff' + table('Quality|#1 ID|#2 ID|#1 String|#2 String',
                                            '1|7|8|He left .|He went .', '0|9|6|It rose .|No .')},
        numbered({'sentence1': 'He left .', 'sentence2': 'He went .', 'label': 1},
                 {'sentence1': 'It rose .', 'sentence2': 'No .', 'label': 0}),
        [('mrpc sentence1: He left . sentence2: He went .', 'equivalent'),
         ('mrpc sentence1: It rose . sentence2: No .', 'not_equivalent')]),
    # A line of QQP's file is cut short: it is left out, and the others keep their numbers.
    'glue_qqp': Golden(
        {'QQP/train.tsv': table('id|qid1|qid2|question1|question2|is_duplicate',
                                '5|1|2|Why?|How so?|1', '6|3|4|cut short', '7|5|6|Who?|When?|0')},
        [{'question1': 'Why?', 'question2': 'How so?', 'label': 1, 'idx': 0},
         {'question1': 'Who?', 'question2': 'When?', 'label': 0, 'idx': 2}],
        [('qqp question1: Why? question2: How so?', 'duplicate'),
         ('qqp question1: Who? question2: When?', 'not_duplicate')]),
    # To the nearest 0.2, in single precision, halves to the even multiple: 18.5 / 5 -> 3.6.
    'glue_stsb': Golden(
        {'STS-B/train.tsv': table('index|genre|sentence1|sentence2|score', '0|x|A.|B.|3.7',
                                  '1|x|A|C|2.5', '2|x|A|A|5.000', '3|x|A|Z|0.0', '4|x|Q|Z|1.08')},
        numbered(*({'sentence1': a, 'sentence2': b, 'label': s} for a, b, s in (
            ('A.', 'B.', 3.7), ('A', 'C', 2.5), ('A', 'A', 5.0), ('A', 'Z', 0.0),
            ('Q', 'Z', 1.08)))),
        [('stsb sentence1: A. sentence2: B.', '3.6'), ('stsb sentence1: A sentence2: C', '2.4'),
         ('stsb sentence1: A sentence2: A', '5.0'), ('stsb sentence1: A sentence2: Z', '0.0'),
         ('stsb sentence1: Q sentence2: Z', '1.0')]),
    'glue_mnli': Golden(
        {'MNLI/train.tsv': table('index|genre|sentence1|sentence2|label1|gold_label',
                                 '0|fiction|He ran.|He moved.|entailment|entailment',
                                 '1|fiction|He ran.|He slept.|neutral|contradiction')},
        numbered({'premise': 'He ran.', 'hypothesis': 'He moved.', 'label': 0},
                 {'premise': 'He ran.', 'hypothesis': 'He slept.', 'label': 2}),
        [('mnli hypothesis: He moved. premise: He ran.', 'entailment'),
         ('mnli hypothesis: He slept. premise: He ran.', 'contradiction')]),
    'glue_qnli': Golden(
        {'QNLI/train.tsv': table('index|question|sentence|label', '0|Who?|Ann did.|entailment',
                                 '1|When?|Ann did.|not_entailment')},
        numbered({'question': 'Who?', 'sentence': 'Ann did.', 'label': 0},
                 {'question': 'When?', 'sentence': 'Ann did.', 'label': 1}),
        [('qnli question: Who? sentence: Ann did.', 'entailment'),
         ('qnli question: When? sentence: Ann did.', 'not_entailment')]),
    'glue_rte': Golden(
        {'glue/rte/train.tsv': table('index|sentence1|sentence2|label',
                                     '0|Ann is in Rome.|Ann is in Italy.|entailment')},
        numbered({'sentence1': 'Ann is in Rome.', 'sentence2': 'Ann is in Italy.', 'label': 0}),
        [('rte sentence1: Ann is in Rome. sentence2: Ann is in Italy.', 'entailment')]),
    'glue_wnli': Golden(
        {'WNLI/train.tsv': table('index|sentence1|sentence2|label', '0|He saw it.|Bob saw it.|1',
                                 '1|He saw it.|Tom saw it.|0')},
        numbered({'sentence1': 'He saw it.', 'sentence2': 'Bob saw it.', 'label': 1},
                 {'sentence1': 'He saw it.', 'sentence2': 'Tom saw it.', 'label': 0}),
        [('wnli sentence1: He saw it. sentence2: Bob saw it.', 'entailment'),
         ('wnli sentence1: He saw it. sentence2: Tom saw it.', 'not_entailment')]),
}

_STORY = 'Ann is <b>tall</b>.<br>Bob is not.'
_NEWS = ('Ann met Bob .\n@highlight\nAnn Ho spoke\n@highlight\nBob Ray left!\n@highlight\nWho knew')
_NEWS_FLAT = 'Ann met Bob . Ann Ho spoke. Bob Ray left! Who knew'
_PONY = ('The boy continued to whip the pony , and eventually the pony threw him over. John '
         'laughed out quite loud. "Good for him," he said. ')


def _wsc(text, one, at_one, two, at_two, label, idx):
    """Return a record of WSC in the official form and in that of TFDS."""
    spans = {'span1_text': one, 'span1_index': at_one, 'span2_text': two, 'span2_index': at_two}
    return ({'text': text, 'target': spans, 'idx': idx, 'label': label},
            {'text': text, **spans, 'idx': idx, 'label': int(label)})


# The pronoun's word stands twice; a noun whose case is another in the text; a misplaced index.
_WSC = [_wsc('Ann told Eve that she thought she had won.', 'Ann', 0, 'she', 6, True, 0),
        _wsc('I put the red cup down because it broke.', 'The red cup', 2, 'it', 7, False, 1),
        _wsc(_PONY, 'The boy', 0, 'him', 22, True, 2)]

SUPER_GLUE = {
    'super_glue_boolq': Golden(
        {'BoolQ/train.jsonl': [
            {'question': 'is ice cold', 'passage': 'Ice -- Ice is frozen.', 'idx': 0,
             'label': True},
            {'question': 'is ice hot', 'passage': 'Ice \u2013 frozen.', 'idx': 1,
             'label': False}]},
        numbered({'question': 'is ice cold', 'passage': 'Ice -- Ice is frozen.', 'label': 1},
                 {'question': 'is ice hot', 'passage': 'Ice \u2013 frozen.', 'label': 0}),
        [('boolq passage: Ice -- Ice is frozen. question: is ice cold', 'True'),
         ('boolq passage: Ice \u2013 frozen. question: is ice hot', 'False')]),
    'super_glue_cb': Golden(
        {'CB/train.jsonl': [
            {'premise': 'A: I think it rains.', 'hypothesis': 'it rains', 'label': 'neutral',
             'idx': 0},
            {'premise': 'It rains.', 'hypothesis': 'it is dry', 'label': 'contradiction',
             'idx': 1}]},
        numbered({'premise': 'A: I think it rains.', 'hypothesis': 'it rains', 'label': 2},
                 {'premise': 'It rains.', 'hypothesis': 'it is dry', 'label': 1}),
        [('cb hypothesis: it rains premise: A: I think it rains.', 'neutral'),
         ('cb hypothesis: it is dry premise: It rains.', 'contradiction')]),
    'super_glue_copa': Golden(
        {'COPA/train.jsonl': [
            {'premise': 'It broke.', 'choice1': 'It fell.', 'choice2': 'It shone.',
             'question': 'cause', 'label': 0, 'idx': 0},
            {'premise': 'It fell.', 'choice1': 'It flew.', 'choice2': 'It broke.',
             'question': 'effect', 'label': 1, 'idx': 1}]},
        numbered({'premise': 'It broke.', 'choice1': 'It fell.', 'choice2': 'It shone.',
                  'question': 'cause', 'label': 0},
                 {'premise': 'It fell.', 'choice1': 'It flew.', 'choice2': 'It broke.',
                  'question': 'effect', 'label': 1}),
        [('copa choice1: It fell. choice2: It shone. premise: It broke. question: cause',
          'choice1'),
         ('copa choice1: It flew. choice2: It broke. premise: It fell. question: effect',
          'choice2')]),
    'super_glue_multirc': Golden(
        {'MultiRC/train.jsonl': [{'idx': 4, 'version': 1.1, 'passage': {
            'text': _STORY, 'questions': [
                {'question': 'Who is tall?', 'idx': 9, 'answers': [
                    {'text': 'Ann', 'idx': 20, 'label': 1}, {'text': 'Bob', 'idx': 21, 'label': 0},
                    {'text': '<b>Ann</b>', 'idx': 22, 'label': 1}]},
                {'question': 'Who is not?', 'idx': 10, 'answers': [
                    {'text': 'Bob', 'idx': 23, 'label': 1}]}]}}]},
        [{'paragraph': _STORY, 'question': question, 'answer': answer, 'label': label,
          'idx': {'paragraph': 4, 'question': of, 'answer': number}}
         for question, of, answer, number, label in (
             ('Who is tall?', 9, 'Ann', 20, 1), ('Who is tall?', 9, 'Bob', 21, 0),
             ('Who is tall?', 9, '<b>Ann</b>', 22, 1), ('Who is not?', 10, 'Bob', 23, 1))],
        [(f'multirc question: {question} answer: {answer} paragraph: Ann is tall. Bob is not.',
          target) for question, answer, target in (
              ('Who is tall?', 'Ann', 'True'), ('Who is tall?', 'Bob', 'False'),
              ('Who is tall?', 'Ann', 'True'), ('Who is not?', 'Bob', 'True'))]),
    # Two spellings of the answer are two examples; an entity that stands twice is told once.
    'super_glue_record': Golden(
        {'ReCoRD/train.jsonl': [{'source': 'CNN', 'idx': 3, 'passage': {
            'text': _NEWS, 'entities': [
                {'start': 0, 'end': 2}, {'start': 8, 'end': 10}, {'start': 25, 'end': 30},
                {'start': 49, 'end': 55}, {'start': 25, 'end': 27}]},
            'qas': [{'query': '@placeholder spoke to Bob', 'idx': 6, 'answers': [
                        {'start': 25, 'end': 30, 'text': 'Ann Ho'},
                        {'start': 0, 'end': 2, 'text': 'Ann'}]},
                    {'query': 'Then @placeholder left', 'idx': 7, 'answers': [
                        {'start': 49, 'end': 55, 'text': 'Bob Ray'}]}]}]},
        [{'passage': _NEWS, 'query': query, 'entities': ['Ann', 'Ann Ho', 'Bob', 'Bob Ray'],
          'answers': answers, 'idx': {'passage': 3, 'query': number}} for query, answers, number in
         (('@placeholder spoke to Bob', ['Ann', 'Ann Ho'], 6),
          ('Then @placeholder left', ['Bob Ray'], 7))],
        [(f'record query: {query} entities: Ann, Ann Ho, Bob, Bob Ray passage: {_NEWS_FLAT}',
          target) for query, target in (
              ('@placeholder spoke to Bob', 'Ann'), ('@placeholder spoke to Bob', 'Ann Ho'),
              ('Then @placeholder left', 'Bob Ray'))]),
    'super_glue_rte': Golden(
        {'RTE/train.jsonl': [{'premise': 'Ann is in Rome.', 'hypothesis': 'Ann is in Italy.',
                              'label': 'entailment', 'idx': 0}]},
        numbered({'premise': 'Ann is in Rome.', 'hypothesis': 'Ann is in Italy.', 'label': 0}),
        [('rte hypothesis: Ann is in Italy. premise: Ann is in Rome.', 'entailment')]),
    'super_glue_wic': Golden(
        {'WiC/train.jsonl': [
            {'word': 'bank', 'sentence1': 'The bank lent.', 'sentence2': 'A river bank.', 'idx': 0,
             'label': False, 'start1': 4, 'end1': 8, 'start2': 8, 'end2': 12, 'version': 1.1}]},
        numbered({'word': 'bank', 'sentence1': 'The bank lent.', 'sentence2': 'A river bank.',
                  'label': 0, 'start1': 4, 'end1': 8, 'start2': 8, 'end2': 12}),
        [('wic sentence1: The bank lent. sentence2: A river bank. word: bank', 'False')]),
    'super_glue_wsc': Golden(
        {'WSC/train.jsonl': [official for official, _ in _WSC]}, [tfds for _, tfds in _WSC],
        [('wsc: Ann told Eve that she thought *she* had won.', 'Ann'),
         ('wsc: The boy continued to whip the pony , and eventually the pony threw him over. John '
          'laughed out quite loud. "Good for *him* ," he said.', 'The boy')]),
    'super_glue_wsc_ranking': Golden(
        {'WSC/train.jsonl': [official for official, _ in _WSC]}, [tfds for _, tfds in _WSC],
        [('wsc text: * Ann * told Eve that she thought # she # had won.', 'True'),
         ('wsc text: I put * the red cup * down because # it # broke.', 'False'),
         ('wsc text: * The boy * continued to whip the pony , and eventually the pony threw him '
          'over. John laughed out quite loud. "Good for # him #," he said. ', 'True')]),
    'super_glue_axb': Golden(
        {'AX-b/AX-b.jsonl': [{'idx': 0, 'sentence1': 'It rains.', 'sentence2': 'It is wet.',
                              'label': 'entailment', 'logic': ''}]},
        numbered({'sentence1': 'It rains.', 'sentence2': 'It is wet.', 'label': 0}),
        [('rte hypothesis: It is wet. premise: It rains.', 'entailment')], split='test'),
    'super_glue_axg': Golden(
        {'AX-g/AX-g.jsonl': [{'idx': 0, 'premise': 'The nurse met a guest as she left.',
                              'hypothesis': 'The nurse left.', 'label': 'not_entailment',
                              'pair_id': 1}]},
        numbered({'premise': 'The nurse met a guest as she left.', 'hypothesis': 'The nurse left.',
                  'label': 1}),
        [('rte hypothesis: The nurse left. premise: The nurse met a guest as she left.',
          'not_entailment')], split='test'),
}

_ANSWERS = {'text': ['$1.5m', '1.5m'], 'answer_start': [4, 5]}
SQUAD = {
    'squad': Golden(
        {'SQuAD/train-v1.1.json': json.dumps({'version': '1.1', 'data': [{
            'title': 'Money', 'paragraphs': [{
                'context': "It's  $1.5m (net).", 'qas': [{
                    'id': 'a1', 'question': 'How much, in na\u00efve money?', 'answers': [
                        {'text': '$1.5m', 'answer_start': 6},
                        {'text': '1.5m', 'answer_start': 7}]}]}]}]})},
        [{'id': 'a1', 'title': 'Money', 'context': "It's  $1.5m (net).",
          'question': 'How much, in na\u00efve money?', 'answers': _ANSWERS}],
        [('question: How much , in na\u00efve money ? context: It \' s $ 1 . 5m ( net ) . ',
          ' $ 1 . 5m')]),
    'mrqa_hotpot_qa': Golden(
        {'MRQA/train/HotpotQA.jsonl': [
            {'header': {'dataset': 'HotpotQA', 'split': 'train'}},
            {'id': 'x', 'context': ' [PAR] Ann won. ', 'context_tokens': [['[PAR]', 1]],
             'qas': [{'qid': 'q1', 'question': 'Who won? ', 'question_tokens': [],
                      'detected_answers': [], 'answers': ['Ann', 'ann']},
                     {'qid': 'q2', 'question': 'Did she?', 'question_tokens': [],
                      'detected_answers': [], 'answers': ['yes']}]}]},
        [{'subset': 'HotpotQA', 'qid': 'q1', 'context': '[PAR] Ann won.', 'question': 'Who won?',
          'answers': ['Ann', 'ann']},
         {'subset': 'HotpotQA', 'qid': 'q2', 'context': '[PAR] Ann won.', 'question': 'Did she?',
          'answers': ['yes']}],
        [('question: Who won ? context: [ PAR ] Ann won . ', 'Ann'),
         ('question: Did she ? context: [ PAR ] Ann won . ', 'yes')]),
    'mrqa_duo_rc': Golden(
        {'MRQA/dev/DuoRC.ParaphraseRC.jsonl': [
            {'header': {'dataset': 'DuoRC', 'split': 'dev'}},
            {'context': 'A plot', 'qas': [
                {'qid': 'z', 'question': 'Why', 'detected_answers': [], 'answers': ['so']}]}]},
        [{'subset': 'DuoRC', 'qid': 'z', 'context': 'A plot', 'question': 'Why',
          'answers': ['so']}],
        [('question: Why context: A plot', 'so')], split='test'),
}

OTHERS = {
    'xsum': Golden(
        {'XSum/train.jsonl': [{'id': '1', 'document': 'It rained.\nA lot.', 'summary': 'Rain.'}]},
        [{'document': 'It rained.\nA lot.', 'summary': 'Rain.'}],
        [('summarize: It rained.\nA lot.', 'Rain.')]),
    'cnn_dailymail': Golden(
        {'CNN_DailyMail/train.jsonl': [{'id': '1', 'article': 'It rained . A lot .',
                                        'highlights': 'Rain .\nMore .'}]},
        [{'id': '1', 'publisher': 'cnn', 'article': 'It rained . A lot .',
          'highlights': 'Rain .\nMore .'}],
        [('summarize: It rained . A lot .', 'Rain .\nMore .')]),
    'anli_r2': Golden(
        {'anli_v1.0/R2/train.jsonl': [
            {'uid': 'u', 'context': 'Ann won.', 'hypothesis': 'Bob won.', 'label': 'c',
             'reason': 'x'}]},
        [{'uid': 'u', 'context': 'Ann won.', 'hypothesis': 'Bob won.', 'label': 2}],
        [('anli hypothesis: Bob won. premise: Ann won.', 'contradiction')],
        hub=[{'uid': 'u', 'premise': 'Ann won.', 'hypothesis': 'Bob won.', 'label': 2,
              'reason': 'x'}]),
    'rotten_tomatoes_reviews': Golden(
        {'rotten_tomatoes/train.jsonl': [{'text': 'a warm film', 'label': 1}]}, [],
        [('rotten_tomatoes text: a warm film', 'positive')],
        hub=[{'text': 'a warm film', 'label': 1}]),
    'imdb_reviews': Golden(
        {'aclImdb/train/neg/0_2.txt': 'Dull.<br /><br />Truly. \n',
         'aclImdb/train/pos/0_9.txt': 'Warm.'},
        [{'text': 'Dull.<br /><br />Truly.', 'label': 0}, {'text': 'Warm.', 'label': 1}],
        [('imdb text: Dull.<br /><br />Truly.', 'negative'), ('imdb text: Warm.', 'positive')]),
    'ag_news': Golden(
        {'ag_news_csv/train.csv': '"3","Stocks ""fell""","Reuters - Wall\\Street\\fell."\n'
                                  '"4","Chips","Faster chips."\n'},
        [{'title': 'Stocks "fell"', 'description': 'Reuters - Wall\\Street\\fell.', 'label': 2},
         {'title': 'Chips', 'description': 'Faster chips.', 'label': 3}],
        [('ag_news text: Stocks "fell" Reuters - Wall\\Street\\fell.', 'Business'),
         ('ag_news text: Chips Faster chips.', 'Sci/Tech')],
        hub=[{'text': 'Stocks "fell" Reuters - Wall\\Street\\fell.', 'label': 2},
             {'text': 'Chips Faster chips.', 'label': 3}]),
    'trec': Golden(
        {'TREC/train_5500.label': 'NUM:dist How far is it ?\nDESC:def What is a sea ?\n'},
        [{'text': 'How far is it ?', 'label-coarse': 4, 'label-fine': 40},
         {'text': 'What is a sea ?', 'label-coarse': 0, 'label-fine': 7}],
        [('trec text: How far is it ?', 'number'), ('trec text: What is a sea ?', 'description')],
        hub=[{'text': 'How far is it ?', 'coarse_label': 5, 'fine_label': 40},
             {'text': 'What is a sea ?', 'coarse_label': 2, 'fine_label': 24}]),
    'banking77': Golden(
        {'banking_data/train.csv': 'text,category\n"Where, please, is my refund?",'
                                   'Refund_not_showing_up\nUndo it,reverted_card_payment?\n'}, [],
        [('banking77 text: Where, please, is my refund?', 'refund not showing up'),
         ('banking77 text: Undo it', 'reverted card payment')],
        hub=[{'text': 'Where, please, is my refund?', 'label': 51},
             {'text': 'Undo it', 'label': 53}]),
}

GOLDEN = GLUE | SUPER_GLUE | SQUAD | OTHERS
