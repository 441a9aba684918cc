"""Designs in use: PyTorch's scores, the nearest of a brute force, as many examples as fit."""

import dataclasses

import numpy as np
import pytest

from jax_prompt.data.demonstrations import Demonstration
from jax_prompt.data.design import Design
from jax_prompt.data.examples import load_examples
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.calibration import Calibration
from jax_prompt.inference.designs import DesignInUse
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.make_design import DesignSettings, balanced, design_file, make_design
from jax_prompt.models.forward import encode
from jax_prompt.prompts.file import PromptFile, load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, no_prompt
from tests.inference.many_prompts import open_tiny, prompt_file
from tests.models.t5.random_weights import to_hugging_face
from tests.tiny_world import BAD, GOOD, SUBJECTS, write_model

SHAPES = Shapes(batch_sizes=(8,), lengths=(48,), labels=((8, 4),), targets=(8,), shared_labels=1)
TRAIN = [{'text': f'the {subject} was {word}', 'label': label}
         for subject in SUBJECTS[:4] for label, words in (('0', BAD), ('1', GOOD))
         for word in words[:2]]
TEXTS = ['the hero was weak and cold', 'the film and the plot', 'clever cast', 'the scene was warm']
#: Stands in validation and test alone.
PLANTED = 'filler7'
WORDS = {'negative': ('dull', 'weak', 'cold'), 'positive': ('great',)}


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
    """A tiny model whose vocabulary has the sentinels of a cloze."""
    return open_tiny(write_model(tmp_path_factory.mktemp('sentinels'), blanks=2))


def held_out():
    return [{'text': f'the {PLANTED} was great', 'label': '0'}] * 4


def a_task(**fields) -> TextTask:
    splits = {'train': lambda: TRAIN, 'validation': held_out, 'test': held_out}
    return TextTask('reviews', splits, 'review : {text}',
                    **{'labels': {'0': 'negative', '1': 'positive'}, 'inputs_length': 40} | fields)


CLOZE = Design('{text} and was {answer} :', WORDS, instruction='review :', demonstrations=(
    Demonstration({'text': TRAIN[0]['text']}, 'negative'),
    Demonstration({'text': TRAIN[2]['text']}, 'positive')))


def in_use(opened, design: Design, task: TextTask | None = None) -> DesignInUse:
    engine = Engine(opened, SHAPES, capacity=64)
    return engine.add('one', design_file(opened, task or a_task(), design)).design


def torch_scores(opened, text: str, words: list[list[int]]) -> list[float]:
    """Score tokens behind a text with transformers' T5: the sum of each given the ones before."""
    torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
    config = opened.model.config
    names = ('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'num_layers',
             'num_decoder_layers')
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(
        feed_forward_proj='gated-gelu', tie_word_embeddings=False, decoder_start_token_id=0,
        **{name: getattr(config, name) for name in names})).eval()
    theirs.config.tie_word_embeddings = False
    theirs.lm_head.weight = torch.nn.Parameter(torch.zeros_like(theirs.lm_head.weight))
    theirs.load_state_dict({name: torch.tensor(leaf) for name, leaf in
                            to_hugging_face(opened.frozen, config).items()}, strict=False)
    ids = torch.tensor([[*opened.vocabulary.encode(text), 1]])
    found = []
    for tokens in words:
        inputs = torch.tensor([[0, *tokens[:-1]]])
        with torch.no_grad():
            logits = theirs(input_ids=ids, decoder_input_ids=inputs).logits[0].log_softmax(-1)
        found.append([float(logits[place, token]) for place, token in enumerate(tokens)])
    return found


@pytest.mark.parametrize('closed', [False, True], ids=['open', 'closed'])
def test_a_clozes_scores_are_those_computed_by_hand(opened, closed: bool):
    encode_, token_id = opened.vocabulary.encode, opened.vocabulary.token_id
    words = WORDS if not closed else {'negative': ('dull', 'weak cold'), 'positive': ('great',)}
    design = dataclasses.replace(CLOZE, words=words, closed=closed)
    text = ('review : the film was dull and was dull : the film was great and was great : '
            f'{TEXTS[0]} and was <extra_id_0> :')
    blank, end = token_id('<extra_id_0>'), [token_id('<extra_id_1>')] * closed
    flat = [word for some in words.values() for word in some]
    each = torch_scores(opened, text, [[blank, *encode_(word), *end] for word in flat])
    scores = dict(zip(flat, [sum(one[1:]) for one in each], strict=True))
    negative = np.array([scores[word] for word in words['negative']])
    engine = Engine(opened, SHAPES, capacity=64)
    for combine, expected in (('sum', np.log(np.exp(negative).sum())),
                              ('mean', np.log(np.exp(negative).mean())), ('best', negative.max())):
        engine.add(combine, design_file(opened, a_task(), dataclasses.replace(
            design, combine=combine)))
        found = engine.run([engine.row(combine, TEXTS[0])])[0].scores
        np.testing.assert_allclose([found['negative'], found['positive']],
                                   [expected, scores['great']], atol=1e-4)


def test_the_nearest_are_those_of_a_brute_force(opened):
    task = a_task()
    design = make_design(opened, task, DesignSettings(
        '{text} and was {answer} :', WORDS, shots=3, choice='nearest', seed=2))

    def state(text: str) -> np.ndarray:
        ids = np.array([[*opened.vocabulary.encode(f'{text} and was <extra_id_0> :'), 1]])
        encoded, _ = encode(opened.model, opened.frozen, no_prompt(16), ids)
        mean = np.asarray(encoded)[0].mean(axis=0)
        return mean / np.linalg.norm(mean)

    pool = np.stack([state(row['text']) for row in TRAIN])
    used = in_use(opened, design)
    asked = [*TEXTS, TRAIN[5]['text']]  # the last one shows not itself
    for text, worded in zip(asked, used.word([Row({'text': one}, '') for one in asked]),
                            strict=True):
        cosines = np.where([row['text'] == text for row in TRAIN], -2, pool @ state(text))
        nearest = [TRAIN[number] for number in np.argsort(-cosines)[:3]]
        shown = [design.shown(Demonstration(row, task.verbalize(row['label'])))
                 for row in nearest]
        expected = ' '.join([*shown, f'{text} and was <extra_id_0> :'])
        assert worded.tokens == opened.vocabulary.encode(expected)


def test_as_many_demonstrations_stand_in_front_as_fit(opened, caplog):
    shots = tuple(Demonstration({'text': f'the {one} was great'}, 'positive') for one in SUBJECTS)
    design = dataclasses.replace(CLOZE, instruction='', demonstrations=shots)
    used, encode_ = in_use(opened, design, a_task(inputs_length=33)), opened.vocabulary.encode
    short, long = used.word([Row({'text': 'the cast'}, ''), Row({'text': 'the ' * 20}, '')])
    # Each takes 8 tokens, and what is asked 6 or 24, of the 32 in front of the end token.
    assert short.tokens == encode_(design.render({'text': 'the cast'}, shots[:3]))
    assert long.tokens == encode_(design.render({'text': 'the ' * 20}, shots[:1]))
    assert used.told() == ('2 of 2 inputs had room for fewer than their 8 demonstrations, 2.0 on '
                           'average; raise inputs_length, or ask for fewer')
    assert not used.told()
    make_design(opened, a_task(inputs_length=33), DesignSettings(
        '{text} and was {answer} :', WORDS, shots=8))
    assert 'inputs had room for fewer than their 8 demonstrations' in caplog.text


def test_an_input_that_is_too_long_keeps_the_answers_place(opened):
    used, ids = in_use(opened, CLOZE, a_task(inputs_length=24)), opened.vocabulary
    worded, = used.word([Row({'text': 'the film was great ' * 300}, '')])
    assert worded.cut and len(worded.tokens) == 23
    assert worded.tokens[-4:] == ids.encode('and was <extra_id_0> :')
    assert worded.tokens[:2] == ids.encode('review :')


def test_an_input_is_no_demonstration_of_itself(opened):
    row = Row({'text': TRAIN[0]['text']}, '')
    worded, = in_use(opened, CLOZE).word([row])
    assert worded.tokens == opened.vocabulary.encode(CLOZE.render(row, CLOZE.demonstrations[1:]))


def test_rows_of_designs_and_prompts_share_batches_and_answer_as_alone(opened):
    engine, task = Engine(opened, SHAPES, capacity=64), a_task()
    soft = prompt_file(opened, 3, Layout('marker', rows_before=1), name='reviews')
    around = Design('{text} <extra_id_99> and was {answer} <extra_id_99> :', WORDS)
    nearest = make_design(opened, task, DesignSettings(shots=2, choice='nearest'))
    files = {'soft': prompt_file(opened, 5, labels=['negative', 'positive']),
             'cloze': design_file(opened, task, CLOZE),
             'nearest': design_file(opened, task, nearest),
             'both': design_file(opened, task, around, soft)}
    for name, file in files.items():
        engine.add(name, file)
    asked = [(name, text) for text in TEXTS for name in files]
    rows = engine.rows(asked)
    v = opened.model.vocab_size
    both = rows[3].ids.tolist()
    encode_ = opened.vocabulary.encode
    first = engine.prompt('both').block.offset
    assert both == [*encode_(TEXTS[0]), v + first, *encode_('and was <extra_id_0>'),
                    v + first + 1, v + first + 2, *encode_(':'), 1]
    together = engine.run(rows)
    for row, answer in zip(rows, together, strict=True):
        alone, = engine.run([row])
        np.testing.assert_allclose(list(answer.scores.values()), list(alone.scores.values()),
                                   atol=1e-5)


def test_words_that_say_what_the_task_says_change_nothing_to_the_bit(opened):
    task, engine = a_task(), Engine(opened, SHAPES, capacity=64)
    engine.add('plain', prompt_file(opened, 0, **task.to_dict()))
    engine.add('design', design_file(opened, task, DesignSettings().design(task)))
    plain, worded = (engine.run(engine.rows((name, text) for text in TEXTS))
                     for name in ('plain', 'design'))
    assert plain == worded


def test_the_evaluator_answers_as_the_engine_does(opened):
    task, engine = a_task(), Engine(opened, SHAPES, capacity=64)
    design = dataclasses.replace(CLOZE, calibration=(0.5, -1.0))
    engine.add('cloze', design_file(opened, task, design))
    examples = load_examples(task, 'train', opened.vocabulary)
    evaluator = Evaluator(opened, task, Layout(), batch_size=8, lengths=(40,), design=design)
    metrics, predictions = evaluator.measure(no_prompt(16), examples)
    expected = engine.run(engine.rows(('cloze', row['text']) for row in TRAIN))
    for one, other in zip(predictions['rank'], expected, strict=True):
        assert one.text == other.text
        np.testing.assert_allclose(list(one.scores.values()), list(other.scores.values()),
                                   atol=1e-5)
    right = np.array([one.scores[task.verbalize(row['label'])]
                      for one, row in zip(expected, TRAIN, strict=True)])
    np.testing.assert_allclose(metrics['loss'], -right.mean(), atol=1e-5)  # words of one token
    with pytest.raises(ValueError, match=r"is ranked and not generated, but evaluate_by is "):
        Evaluator(opened, task, Layout(), ('greedy',), design=CLOZE)


@pytest.mark.parametrize('calibrate', ['content_free', 'unlabelled'])
def test_calibration_is_the_mean_over_the_inputs_that_it_says(opened, calibrate: str):
    task, engine = a_task(), Engine(opened, SHAPES, capacity=64)
    asked = DesignSettings('{text} and was {answer} :', WORDS, shots=2, unlabelled=1000,
                           calibrate=calibrate)
    design = make_design(opened, task, asked)
    engine.add('bare', design_file(opened, task, dataclasses.replace(design, calibration=None)))
    engine.add('one', design_file(opened, task, design))
    texts = [row['text'] for row in TRAIN] if calibrate == 'unlabelled' else ['N/A', '', '[MASK]']
    odds = np.array([list(one.probabilities.values())
                     for one in engine.run(engine.rows(('bare', text) for text in texts))])
    np.testing.assert_allclose(design.calibration, np.log(odds.mean(axis=0)), atol=1e-5)
    for bare, one in zip(*(engine.run(engine.rows((name, text) for text in TEXTS))
                           for name in ('bare', 'one')), strict=True):
        shifted = np.array(list(bare.scores.values())) - design.calibration
        expected = np.exp(shifted) / np.exp(shifted).sum()
        np.testing.assert_allclose(list(one.probabilities.values()), expected, atol=1e-5)
        assert one.text == list(WORDS)[int(expected.argmax())]
        np.testing.assert_allclose(list(one.scores.values()), list(bare.scores.values()),
                                   atol=1e-5)


def test_who_asks_for_calibration_gets_it_in_place_of_the_designs(opened):
    engine = Engine(opened, SHAPES, capacity=64)
    for name, shift in (('bare', None), ('one', (3.0, -3.0))):
        engine.add(name, design_file(opened, a_task(), dataclasses.replace(
            CLOZE, calibration=shift)))
    bare, one = (engine.run(AnswerSettings(calibrate=True).rows(
        engine, engine.prompt(name), TEXTS[:1], ['line 1'], [(0,)]))[0] for name in ('bare', 'one'))
    assert bare == one
    hot, = engine.run(engine.rows_of(engine.prompt('one'), TEXTS[:1],
                                     options=Calibration(None, 2.0)))
    shifted = (np.array(list(one.scores.values())) - [3.0, -3.0]) / 2
    np.testing.assert_allclose(list(hot.probabilities.values()),
                               np.exp(shifted) / np.exp(shifted).sum(), atol=1e-5)


@pytest.mark.parametrize('choice', ['random', 'balanced', 'nearest'])
def test_nothing_of_other_splits_reaches_a_design(opened, tmp_path, choice: str):
    """The marker stands in validation and test, which must not even be read."""
    def not_to_be_read():
        raise AssertionError('a held-out split was read')

    splits = {'train': lambda: TRAIN, 'validation': not_to_be_read, 'test': not_to_be_read}
    made = []
    for task in (a_task(), dataclasses.replace(a_task(), splits=splits)):
        design = make_design(opened, task, DesignSettings(
            '{text} and was {answer} :', WORDS, shots=4, choice=choice, calibrate='unlabelled'))
        save_prompt(tmp_path / 'a.safetensors', design_file(opened, task, design))
        made.append((tmp_path / 'a.safetensors').read_bytes())
    assert made[0] == made[1] and PLANTED.encode() not in made[0]
    texts = {row['text'] for row in TRAIN}
    assert {one.columns['text'] for one in design.examples} <= texts


def test_balanced_examples_are_of_all_labels_alike():
    answers = ['a'] * 5 + ['b'] * 20 + ['c'] * 3
    order = balanced(answers, np.random.default_rng(0))
    assert sorted(order) == list(range(28))
    assert [sorted(answers[number] for number in order[i:i + 3]) for i in (0, 3, 6)] == [
        ['a', 'b', 'c']] * 3
    assert balanced(answers, np.random.default_rng(0)) == order


def test_an_example_that_no_file_can_hold_is_not_shown(opened):
    rows = [*TRAIN[:2], {'text': 'the film \x97 great', 'label': '1'}]
    task = dataclasses.replace(a_task(), splits={'train': lambda: rows})
    with pytest.raises(ValueError, match='has 2 different examples; ask for fewer'):
        make_design(opened, task, DesignSettings(shots=3))


def test_a_seed_draws_the_same_examples_again(opened):
    def drawn(seed):
        return make_design(opened, a_task(), DesignSettings(
            shots=6, choice='random', seed=seed)).to_dict()

    assert drawn(3) == drawn(3) != drawn(4)


def test_free_text_has_examples_too(opened):
    task = a_task(labels=None, targets_length=8)
    design = make_design(opened, task, DesignSettings('review : {text} was', form='plain', shots=1))
    engine = Engine(opened, SHAPES, capacity=64)
    engine.add('one', design_file(opened, task, design))
    assert design.demonstrations[0].answer in ('0', '1')
    assert isinstance(engine.run([engine.row('one', TEXTS[0])])[0].text, str)


@pytest.mark.parametrize(('change', 'message'), [
    (dict(words={'negative': 'weak cold', 'positive': 'great'}),
     r"word 'weak cold' of label 'negative' has 2 tokens \('weak', 'cold'\) where a cloze reads "
     'one; choose a word of one token, or set closed=True'),
    (dict(words={'negative': ('cold', 'dull'), 'positive': 'cold'}),
     "words 'cold' of label 'negative' and 'cold' of label 'positive' have the same tokens"),
    (dict(words={'negative': ('cold', 'cold'), 'positive': 'dull'}), "have the same tokens"),
    (dict(instruction='the ' * 40), 'take 44 tokens of inputs_length 40, which leaves no room'),
    (dict(template='{text} {label} {answer}'), "shows the target column 'label'"),
    (dict(template='{text} was'), "has {answer}, the answer's place, 0 times; put it once"),
    (dict(shots=17), 'shots is 17 but the train split of task reviews has 16 different examples'),
])
def test_what_cannot_be_made_is_refused_in_one_line(opened, change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_design(opened, a_task(), DesignSettings(**{
            'template': '{text} and was {answer} :', 'words': WORDS} | change))


@pytest.mark.parametrize(('setting', 'message'), [
    (dict(shots=-1), 'design shots is -1; expected from 0 to 256'),
    (dict(choice='best'), "design choice is 'best'; expected one of random, balanced, nearest"),
    (dict(calibrate='yes'), "design calibrate is 'yes'; expected one of None, content_free"),
])
def test_settings_are_checked(setting: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DesignSettings(**setting)


def test_a_vocabulary_without_sentinels_has_no_clozes(world):
    with pytest.raises(ValueError, match="has no <extra_id_0> and <extra_id_1>, which a cloze is"):
        in_use(open_tiny(world / 'model'), CLOZE)


def test_a_pool_of_another_model_is_refused(opened):
    design = make_design(opened, a_task(), DesignSettings(shots=1, choice='nearest'))
    file = design_file(opened, a_task(), design)
    with pytest.raises(ValueError, match='has states of width 8 but tiny has D=16'):
        Engine(opened, SHAPES, capacity=64).add('one', dataclasses.replace(
            file, states_ND=file.states_ND[:, :8]))


def test_a_prompt_keeps_what_it_was_with_a_design_around_it(opened, tmp_path):
    soft = prompt_file(opened, 3, Layout('around'))
    save_prompt(tmp_path / 'a.safetensors', design_file(opened, a_task(), CLOZE, soft))
    loaded = load_prompt(tmp_path / 'a.safetensors')
    assert isinstance(loaded, PromptFile) and isinstance(loaded.prompt, Prompt)
    np.testing.assert_array_equal(loaded.prompt.rows, soft.prompt.rows)
    assert loaded.metadata.method == 'direct' and Design.of(loaded).words == WORDS
