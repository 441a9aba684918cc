"""The page in a real browser: pick a task, type a text, see what comes of it."""

import csv
import re

import pytest

from jax_prompt.inference.make_design import DesignSettings, design_file, make_design
from jax_prompt.prompts.file import save_prompt
from tests.inference.test_designs import a_task
from tests.serving.process import running

playwright = pytest.importorskip('playwright.sync_api', reason='could not import playwright: pip '
                                 'install jax-prompt[test]')

axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='could not import '
                          'axe-playwright-python: pip install jax-prompt[test]')


@pytest.fixture
def page(browser, server):
    """The page, freshly opened; nothing may be fetched from elsewhere and nothing may go wrong."""
    page = browser.new_page()
    page.asked, page.problems = [], []
    page.on('request', lambda request: page.asked.append(request.url))
    page.on('pageerror', lambda error: page.problems.append(str(error)))
    page.on('console', lambda message: page.problems.append(message.text)
            if is_problem(message) else None)
    page.goto(server.address)
    page.wait_for_selector('#prompt option:nth-child(2)', state='attached')
    yield page
    here = server.address, 'data:', f'blob:{server.address}'
    assert all(url.startswith(here) for url in page.asked), page.asked
    assert not page.problems
    page.close()


def is_problem(message) -> bool:
    return message.type in ('error', 'warning')


def is_answer(response) -> bool:
    return response.request.method == 'POST'


def choose(page, name, select='#prompt'):
    """Pick a prompt by the beginning of what its option says."""
    labels = page.locator(f'{select} option').all_text_contents()
    page.select_option(select, label=next(one for one in labels if one.startswith(name)))


def run(page, *texts):
    for number, text in enumerate(texts):
        page.fill(f'#column{number}', text)
    with page.expect_response(is_answer) as answer:
        page.click('#run')
    page.wait_for_selector('#run:not([disabled])')
    return answer.value


def run_all(page, pasted):
    """Ask for what is pasted; return the table's rows as they are shown."""
    page.fill('#pasted', pasted)
    page.click('#run-all')
    page.wait_for_selector('#download:not([disabled])')
    return [row.locator('td').all_inner_texts() for row in page.locator('#table tbody tr').all()]


def download(page):
    """Return the rows of the file that is downloaded."""
    with page.expect_download() as found:
        page.click('#download')
    assert found.value.suggested_filename == 'answers.csv'
    with open(found.value.path(), newline='', encoding='utf-8-sig') as file:
        return list(csv.reader(file))


def shown(answer):
    """Return the table of probabilities that belongs to an answer of the server."""
    sizes = sorted(answer['probabilities'].items(), key=lambda item: -item[1])
    return [[label, f'{100 * p:.1f} %'] for label, p in sizes]


def probabilities(card):
    return [row.locator('td').all_inner_texts()[:2]
            for row in card.locator('.labels tbody tr').all()]


def test_a_task_with_labels_shows_their_probabilities(page, server):
    choose(page, 'mood')
    run(page, 'the film was great')
    expected = server.ask('POST', '/v1/classify', {
        'prompt': 'mood', 'inputs': 'the film was great'})[1]
    assert page.inner_text('.output') == expected['label']
    assert probabilities(page.locator('.answer')) == shown(expected)


def test_probabilities_can_be_calibrated(page, server):
    choose(page, 'mood')
    page.check('#calibrate')
    run(page, 'the film was great')
    expected = server.ask('POST', '/v1/classify', {
        'prompt': 'mood', 'inputs': 'the film was great', 'calibrate': True})[1]
    assert page.inner_text('.output') == expected['label']
    assert probabilities(page.locator('.answer')) == shown(expected)
    choose(page, 'title')
    assert page.is_hidden('#choice')


def test_a_task_of_free_text_shows_the_text(page, server):
    choose(page, 'title')
    assert page.is_visible('#free')
    run(page, 'the film')
    expected = server.ask('POST', '/v1/generate', {'prompt': 'title', 'inputs': 'the film'})[1]
    assert page.inner_text('.output') == expected['text']
    assert page.is_hidden('.labels')


def test_a_task_of_several_columns_asks_for_each(page):
    choose(page, 'pair')
    assert page.locator('#columns label').all_inner_texts() == ['first', 'second']
    assert page.is_hidden('#free')
    run(page, 'the film', 'the plot')
    assert page.inner_text('.output') in ('great', 'weak cold')


def test_the_plain_model_can_be_asked(page):
    choose(page, 'no prompt')
    run(page, 'film')
    assert page.inner_text('.output') not in ('', '–')


def test_the_nearest_words_of_the_prompt_are_shown(page, server):
    choose(page, 'one')
    page.click('.nearest summary')
    playwright.expect(page.locator('.nearest td')).to_have_count(6)
    nearest = server.ask('GET', '/v1/prompts/one/nearest')[1]['rows'][0]
    cells = page.locator('.nearest td').all_inner_texts()
    assert cells == ['0', *(f'{one["word"]} {one["cosine"]:.2f}' for one in nearest)]


def test_a_design_is_asked_as_a_prompt_is(browser, opened, model, folder):
    """It has no rows to show words of."""
    task = a_task(inputs_length=48)
    design = make_design(opened, task, DesignSettings('{text} was', form='plain', shots=2))
    save_prompt(folder / 'words@1.safetensors', design_file(opened, task, design))
    with running(model, folder) as server:
        page = browser.new_page()
        problems = []
        page.on('console', lambda message: problems.append(message.text)
                if is_problem(message) else None)
        page.goto(server.address)
        page.wait_for_selector('#prompt option:nth-child(2)', state='attached')
        choose(page, 'words')
        run(page, 'the film')
        expected = server.ask('POST', '/v1/classify', {'prompt': 'words', 'inputs': 'the film'})[1]
        assert page.inner_text('.output') == expected['label']
        assert probabilities(page.locator('.answer')) == shown(expected)
        assert page.is_hidden('.nearest') and not problems
        page.close()


def test_what_is_refused_is_said_and_markup_stays_text(page):
    choose(page, 'marked')
    page.fill('#column0', '<img src=x onerror=alert(1)> <extra_id_99>')
    with (page.expect_response(is_answer) as answer,
          page.expect_console_message(is_problem)):  # the browser tells of answers above 399
        page.click('#run')
    assert answer.value.status == 409
    page.wait_for_selector('.answer .problem:visible')
    assert 'stands 2 times' in page.inner_text('.answer .problem')
    page.problems.clear()
    assert page.locator('img').count() == 0


def test_nothing_on_the_page_can_run_other_scripts(page, server):
    with page.expect_console_message(is_problem):  # the browser tells of what the policy kept out
        assert page.evaluate('''() => {
            const script = document.createElement('script');
            script.textContent = 'window.hacked = true';
            document.body.append(script);
            return window.hacked === undefined; }''')
    page.problems.clear()


def test_a_page_opened_before_there_are_prompts_finds_them_and_keeps_the_text(browser, server):
    page = browser.new_page()
    page.clock.install()
    answers = [(503, {'detail': 'full; try again'}), (200, {'model': 'tiny', 'prompts': []})]
    page.route('**/v1/prompts', lambda route: route.fulfill(
        status=answers[0][0], json=answers[0][1]) if answers else route.continue_())
    page.goto(server.address)
    playwright.expect(page.locator('#problem')).to_have_text('503: full; try again')
    del answers[0]
    page.clock.run_for(3000)
    playwright.expect(page.locator('#prompt option')).to_have_count(1)
    assert page.is_hidden('#problem')
    page.fill('#column0', 'a great film')
    answers.clear()
    page.clock.run_for(3000)
    page.wait_for_selector('#prompt option:nth-child(2)', state='attached')
    choose(page, 'mood')
    assert page.input_value('#column0') == 'a great film'
    page.close()


# ------------------------------------------------------------------------------
# Side by side


def test_two_prompts_answer_one_text_side_by_side(page, server):
    choose(page, 'mood')
    choose(page, 'words', '#other')
    page.fill('#column0', 'the film was great')
    page.click('#run')
    for name, card in zip(('mood', 'words'), page.locator('.answer').all(), strict=True):
        expected = server.ask('POST', '/v1/classify', {
            'prompt': name, 'inputs': 'the film was great'})[1]
        playwright.expect(card.locator('.output')).to_have_text(expected['label'])
        assert probabilities(card) == shown(expected)
        assert card.locator('h3').inner_text() == f'{name} (1)'
    left, right = (card.bounding_box() for card in page.locator('.answer').all())
    assert left['y'] == right['y'] and left['x'] + left['width'] < right['x']


def test_a_prompt_stands_beside_the_plain_model_with_its_template_and_labels(page, server):
    choose(page, 'mood')
    choose(page, 'no prompt', '#other')
    page.fill('#column0', 'the {film} was great')
    page.click('#run')
    expected = server.ask('POST', '/v1/classify', {
        'inputs': 'review : the {film} was great', 'labels': ['negative', 'positive']})[1]
    card = page.locator('.answer').last
    playwright.expect(card.locator('.labels')).to_be_visible()
    assert probabilities(card) == shown(expected)
    assert card.locator('.nearest').is_hidden()


def test_prompts_of_other_columns_are_asked_for_all_of_them_and_one_may_fail(page):
    choose(page, 'marked')
    choose(page, 'pair', '#other')
    assert page.locator('#columns label').all_inner_texts() == ['text', 'first', 'second']
    assert page.is_visible('#free') and page.is_visible('#choice')
    for number, text in enumerate(('<extra_id_99> film', 'the film', 'the plot')):
        page.fill(f'#column{number}', text)
    with page.expect_console_message(is_problem):
        page.click('#run')
    playwright.expect(page.locator('.answer').first.locator('.problem')).to_be_visible()
    playwright.expect(page.locator('.answer').last.locator('.labels')).to_be_visible()
    page.problems.clear()


# ------------------------------------------------------------------------------
# Examples


def test_an_example_is_asked_with_a_click(page, server):
    choose(page, 'mood')
    playwright.expect(page.locator('#examples button')).to_have_text(
        ['the film, a great one', 'the plot was weak' + ' and cold' * 20])
    with page.expect_response(is_answer) as answer:
        page.click('#examples button')
    assert page.input_value('#column0') == 'the film, a great one'
    playwright.expect(page.locator('.output')).to_have_text(answer.value.json()['label'])
    choose(page, 'title')
    playwright.expect(page.locator('#examples')).to_be_hidden()


def test_examples_of_other_columns_are_told_of(page, server):
    with page.expect_console_message(is_problem):
        choose(page, 'words')
    playwright.expect(page.locator('#examples-problem')).to_contain_text(
        "409: column 'text' is not there at words.examples.csv line 2")
    page.problems.clear()
    assert server.ask('GET', '/v1/prompts/nobody/examples')[0] == 404


# ------------------------------------------------------------------------------
# Many texts


def test_a_pasted_column_becomes_a_table_to_download(page, server):
    choose(page, 'mood')
    choose(page, 'words', '#other')
    texts = ['the film was great', 'a "weak" plot', 'two\nlines, and a\ttab', '"great", he said',
             ' '.join(['film'] * 40)]
    quoted = '"two\nlines, and a\ttab"'
    rows = run_all(page, '\r\n'.join([*texts[:2], quoted, '', *texts[3:]]) + '\n')
    found = download(page)
    assert found[0] == ['text', *(f'{name}@1{more}' for name in ('mood', 'words')
                                  for more in ('', ' probability', ' note'))]
    same = 0
    for text, line, row in zip(texts, found[1:], rows, strict=True):
        answers = [server.ask('POST', '/v1/classify', {'prompt': name, 'inputs': text})[1]
                   for name in ('mood', 'words')]
        note = 'text was cut' if text == texts[-1] else ''
        assert [line[0], *line[1::3], *line[3::3]] == [
            text, *(one['label'] for one in answers), note, note]
        # Other rows in the batch change the last digits.
        assert [*map(float, line[2::3])] == pytest.approx(
            [one['probabilities'][one['label']] for one in answers], abs=1e-4)
        assert row[2::3] == [f'{100 * float(one):.1f} %' for one in line[2::3]]
        assert row[1::3] == line[1::3] and row[3::3] == line[3::3]
        same += answers[0]['label'] == answers[1]['label']
    assert page.inner_text('#many-state') == (
        f'5 of 5 rows; the two say the same of {same} ({20 * same:.1f} %)')


def test_pasted_columns_are_told_apart_by_place_or_by_name(page):
    choose(page, 'pair')
    assert page.inner_text('#pasted-how') == '2 columns with tabs between them: first, second'
    rows = run_all(page, 'the film\tthe plot\nthe cast\tthe hero')
    assert [row[:2] for row in rows] == [['the film', 'the plot'], ['the cast', 'the hero']]
    named = run_all(page, 'id\tsecond\tfirst\n1\tthe plot\tthe film\n2\tthe hero\tthe cast\n')
    assert named == rows
    page.fill('#pasted', 'the film\tthe plot\nthe cast')
    page.click('#run-all')
    assert page.inner_text('#many-problem') == (
        'row 2 has 1 cells; expected 2, with tabs between them: first, second')
    page.fill('#pasted', 'film\n' * 1001)
    page.click('#run-all')
    assert page.inner_text('#many-problem').startswith('1001 rows; expected 1 to 1000')


def test_a_row_that_is_refused_says_so_and_the_others_are_answered(page):
    choose(page, 'marked')
    with page.expect_console_message(is_problem):
        rows = run_all(page, 'a <extra_id_99> film\nthe film')
    assert rows[0][1] == '' and 'stands 2 times' in rows[0][3]
    assert rows[1][1] and rows[1][3] == ''
    page.problems.clear()


def test_a_full_server_is_asked_again(page):
    choose(page, 'mood')
    page.clock.install()
    answers = [503]
    page.route('**/v1/classify', lambda route: route.fulfill(
        status=answers.pop(), json={'detail': 'full'}) if answers else route.continue_())
    page.fill('#pasted', 'the film')
    with page.expect_console_message(is_problem), page.expect_response(is_answer):
        page.click('#run-all')
    assert page.is_visible('#done')
    page.clock.run_for(2000)
    page.wait_for_selector('#download:not([disabled])')
    assert page.inner_text('#table td:nth-child(2)') and not page.inner_text('#table td >> nth=3')
    page.problems.clear()


def test_what_is_answered_by_then_is_kept_when_one_stops(page):
    choose(page, 'mood')
    held = []
    page.route('**/v1/classify', lambda route: held.append(route))
    page.fill('#pasted', 'the film\n' * 30)
    with page.expect_request('**/v1/classify'):
        page.click('#run-all')
    page.click('#stop')
    for route in held:
        route.continue_()
    page.wait_for_selector('#download:not([disabled])')
    assert 1 <= page.locator('#table tbody tr').count() == len(download(page)) - 1 <= 6
    assert page.is_visible('#run-all') and page.is_hidden('#stop')


# ------------------------------------------------------------------------------
# How it looks, and to whom


def show_everything(page):
    """Bring about all that the page can show."""
    choose(page, 'mood')
    choose(page, 'title', '#other')
    page.wait_for_selector('#examples button')
    run(page, 'averylongwordwithoutanyplacetobreakit' * 5)
    for card in page.locator('.answer').all():
        card.locator('summary').click()
        card.locator('.nearest td').first.wait_for()
    run_all(page, 'the film was great\n' + 'averylongword' * 20)
    page.evaluate("""() => {
        for (const one of document.querySelectorAll('.problem, #access, progress, #stop')) {
            one.hidden = false;
            if (one.matches('.problem')) one.textContent = '409: ' + 'averylongword'.repeat(10);
        } }""")


def test_the_page_is_accessible_and_fits_on_a_phone_and_in_the_dark(page):
    show_everything(page)
    for width, scheme in ((1024, 'light'), (360, 'light'), (1024, 'dark'), (360, 'dark')):
        page.set_viewport_size({'width': width, 'height': 740})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate('document.scrollingElement.scrollWidth') == width
        box, label = (page.locator(one).bounding_box() for one in (
            '#calibrate', 'label[for=calibrate] > span'))
        assert box['x'] + box['width'] < label['x'] < box['x'] + 60
        assert label['y'] - 2 <= box['y'] and box['y'] + box['height'] <= (
            label['y'] + label['height'] + 2)
        paper = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert (sum(map(int, re.findall('[0-9]+', paper))) > 3 * 128) == (scheme == 'light')
        report = axe.Axe().run(page)
        assert not report.violations_count, report.generate_report()


def test_the_token_is_asked_for_where_the_server_does(browser, server):
    page = browser.new_page()
    page.route('**/v1/prompts', lambda route: route.continue_() if route.request.headers.get(
        'authorization') == 'Bearer secret' else route.fulfill(status=401, json={'detail': 'no'}))
    page.goto(server.address)
    page.wait_for_selector('#token:visible')
    assert page.inner_text('#problem') == '401: no'
    page.fill('#token', 'secret')
    page.press('#token', 'Tab')
    page.wait_for_selector('#prompt option:nth-child(2)', state='attached')
    assert page.is_hidden('#problem')
    page.close()
