"""Single texts to be classified: reviews, news, questions, and what customers of a bank want.

T5 was trained on none of them; the formats are what T5's `glue` would make of them: a name, then
each column's name and text.
"""

import csv
import os
from collections.abc import Iterable, Iterator

from jax_prompt.data.tasks.definition import OPEN_TEST, Columns, TaskDefinition
from jax_prompt.data.tasks.rows import Row, decode, read_rows

_SENTIMENT = {'labels': ('negative', 'positive'), 'values': {'neg': 'negative', 'pos': 'positive'}}
_TRAIN_AND_TEST = {'train': 'train', 'validation': 'validation', 'test': 'test'}

#: Six coarse classes in the order of TFDS and the hub's first version; a newer one sorts them.
_TREC = {'DESC': 'description', 'ENTY': 'entity', 'ABBR': 'abbreviation', 'HUM': 'person',
         'NUM': 'number', 'LOC': 'location'}
_TREC_SORTED = ('ABBR', 'ENTY', 'DESC', 'HUM', 'LOC', 'NUM')

_BANKING = """
    activate_my_card age_limit apple_pay_or_google_pay atm_support automatic_top_up
    balance_not_updated_after_bank_transfer balance_not_updated_after_cheque_or_cash_deposit
    beneficiary_not_allowed cancel_transfer card_about_to_expire card_acceptance card_arrival
    card_delivery_estimate card_linking card_not_working card_payment_fee_charged
    card_payment_not_recognised card_payment_wrong_exchange_rate card_swallowed
    cash_withdrawal_charge cash_withdrawal_not_recognised change_pin compromised_card
    contactless_not_working country_support declined_card_payment declined_cash_withdrawal
    declined_transfer direct_debit_payment_not_recognised disposable_card_limits
    edit_personal_details exchange_charge exchange_rate exchange_via_app extra_charge_on_statement
    failed_transfer fiat_currency_support get_disposable_virtual_card get_physical_card
    getting_spare_card getting_virtual_card lost_or_stolen_card lost_or_stolen_phone
    order_physical_card passcode_forgotten pending_card_payment pending_cash_withdrawal
    pending_top_up pending_transfer pin_blocked receiving_money Refund_not_showing_up
    request_refund reverted_card_payment? supported_cards_and_currencies terminate_account
    top_up_by_bank_transfer_charge top_up_by_card_charge top_up_by_cash_or_cheque top_up_failed
    top_up_limits top_up_reverted topping_up_by_card transaction_charged_twice
    transfer_fee_charged transfer_into_account transfer_not_received_by_recipient transfer_timing
    unable_to_verify_identity verify_my_identity verify_source_of_funds verify_top_up
    virtual_card_not_working visa_or_mastercard why_verify_identity wrong_amount_of_cash_received
    wrong_exchange_rate_for_cash_withdrawal
""".split()


def _in_words(name: str) -> str:
    """Return an intent's name as a text: small letters, no underscores."""
    return name.replace('_', ' ').strip('?').lower()


def _read_reviews(negative: str) -> Iterator[Row]:
    """Read IMDB's official folder of a split: a text a file, in the folders neg and pos."""
    for label in ('neg', 'pos'):
        folder = os.path.join(os.path.dirname(negative), label)
        for name in sorted(os.listdir(folder)):
            where = os.path.join(folder, name)
            with open(where, 'rb') as file:
                yield Row({'text': decode(file.read(), where).strip(), 'label': label}, where)


def _read_news(path: str) -> Iterator[Row]:
    """Read AG News's official files: class from 1, title and description, without a first line."""
    name = os.path.basename(path)
    with open(path, 'rb') as file:
        lines = (decode(line, f'{name} line {number}', number == 1)
                 for number, line in enumerate(file, 1))
        reader = csv.reader(lines, strict=True)
        try:
            for fields in reader:
                where = f'{name} line {reader.line_num}'
                if len(fields) != 3 or fields[0] not in ('1', '2', '3', '4'):
                    raise ValueError(f'{where} is no record of ag_news; expected a class from 1 '
                                     'to 4, a title and a description')
                yield Row({'label': int(fields[0]) - 1, 'title': fields[1],
                           'description': fields[2]}, where)
        except csv.Error as error:
            raise ValueError(f'{name} line {reader.line_num} cannot be parsed: {error}') from None


def _news(record: Columns) -> Iterable[Columns]:
    """Join title and description by a space, as the hub has them."""
    text = (record['text'] if 'text' in record else
            f'{record["title"]} {record["description"]}')
    yield {**record, 'text': text}


def _read_questions(path: str) -> Iterator[Row]:
    """Read TREC's official files: 'NUM:dist How far is it ...', with a stray byte in one line."""
    if not path.endswith('.label'):
        yield from read_rows(path)
        return
    name = os.path.basename(path)
    with open(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            where = f'{name} line {number}'
            label, _, text = decode(line.replace(b'\xf0', b' '), where).strip().partition(' ')
            yield Row({'label': label.partition(':')[0], 'text': text}, where)


def _question(record: Columns) -> Iterable[Columns]:
    """Find the text and the coarse class under the names that they go by."""
    name = next((one for one in ('label', 'label-coarse') if one in record), 'coarse_label')
    label = record[name]
    if name == 'coarse_label' and not isinstance(label, str):
        label = _TREC_SORTED[label]
    yield {**record, 'label': label,
           'text': record['text' if 'text' in record else 'question'].strip()}


def _intent(record: Columns) -> Iterable[Columns]:
    """Take the label from the official column where the file has that one."""
    yield {**record, 'label': record['category' if 'category' in record else 'label'],
           'text': record['text'].strip()}


CLASSIFICATION = (
    TaskDefinition(
        name='rotten_tomatoes_reviews', prefix='rotten_tomatoes ', template='text: {text}',
        **_SENTIMENT, splits=OPEN_TEST, folders=('rotten_tomatoes', 'rotten_tomatoes/default'),
        files={'train': ('train.jsonl', 'train.tsv'), 'validation': ('validation.jsonl', 'dev.tsv'),
               'test': ('test.jsonl', 'test.tsv')}),
    TaskDefinition(
        name='imdb_reviews', prefix='imdb ', template='text: {text}', **_SENTIMENT,
        splits=_TRAIN_AND_TEST, cuts_validation=True,
        folders=('aclImdb', 'imdb', 'imdb/plain_text'),
        files={'train': ('train/neg',), 'test': ('test/neg',)}, read=_read_reviews,
        tfds='imdb_reviews/plain_text'),
    TaskDefinition(
        name='ag_news', prefix='ag_news ', template='text: {text}',
        labels=('World', 'Sports', 'Business', 'Sci/Tech'), splits=_TRAIN_AND_TEST,
        cuts_validation=True, folders=('ag_news_csv', 'ag_news', 'ag_news/default'),
        files={'train': ('train.csv',), 'test': ('test.csv',)}, read=_read_news, records=_news,
        tfds='ag_news_subset'),
    TaskDefinition(
        name='trec', prefix='trec ', template='text: {text}', labels=tuple(_TREC.values()),
        values=_TREC, splits=_TRAIN_AND_TEST, cuts_validation=True,
        folders=('TREC', 'trec', 'trec/default'),
        files={'train': ('train_5500.label', 'train.tsv'), 'test': ('TREC_10.label', 'test.tsv')},
        read=_read_questions, records=_question, tfds='trec'),
    TaskDefinition(
        name='banking77', prefix='banking77 ', template='text: {text}',
        labels=tuple(map(_in_words, _BANKING)),
        values={name: _in_words(name) for name in _BANKING}, splits=_TRAIN_AND_TEST,
        cuts_validation=True, folders=('banking_data', 'banking77', 'banking77/default'),
        files={'train': ('train.csv',), 'test': ('test.csv',)}, records=_intent,
        targets_length=24),
)
