"""The page in a real browser: pick a task, type a text, see what comes of it."""


import pytest

playwright = pytest.importorskip('playwright.sync_api', reason='could not import playwright: pip '
                                 'install jax-prompt[test]')

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
    page.wait_for_selector('#prompt option', state='attached')
    yield page
    assert all(url.startswith((server.address, 'data:')) for url in page.asked), page.asked
    assert not page.problems
    page.close()


def is_problem(message) -> bool:
    return message.type in ('error', 'warning')


def is_answer(response) -> bool:
    """Tell an answer from the nearest words, which are asked for when a prompt is chosen."""
    return '/v1/' in response.url and '/nearest' not in response.url


def choose(page, name):
    """Pick a prompt by the beginning of what its option says."""
    labels = page.locator('#prompt option').all_text_contents()
    page.select_option('#prompt', label=next(one for one in labels if one.startswith(name)))


def run(page, *texts):
    for number, text in enumerate(texts):
        page.fill(f'#column{number}', text)
    with page.expect_response(is_answer) as answer:
        page.click('#run')
    page.wait_for_selector('#run:not([disabled])')
    return answer.value


def test_a_task_with_labels_shows_their_probabilities(page, server):
    choose(page, 'mood')
    run(page, 'the film was great')
    expected = server.ask('POST', '/v1/classify', {
        'prompt': 'mood', 'inputs': 'the film was great'})[1]
    assert page.inner_text('#output') == expected['label']
    rows = page.locator('#labels tbody tr').all_inner_texts()
    sizes = sorted(expected['probabilities'].items(), key=lambda item: -item[1])
    assert [row.split() for row in rows] == [[label, f'{100 * p:.1f}', '%'] for label, p in sizes]


def test_probabilities_can_be_calibrated(page, server):
    choose(page, 'mood')
    page.check('#calibrate')
    run(page, 'the film was great')
    expected = server.ask('POST', '/v1/classify', {
        'prompt': 'mood', 'inputs': 'the film was great', 'calibrate': True})[1]
    assert page.inner_text('#output') == expected['label']
    first = page.locator('#labels tbody tr').first.inner_text().split()
    assert first[1] == f'{100 * max(expected["probabilities"].values()):.1f}'
    choose(page, 'title')
    assert page.is_hidden('#choice')


def test_a_task_of_free_text_shows_the_text(page, server):
    choose(page, 'title')
    assert page.is_visible('#free')
    run(page, 'the film')
    expected = server.ask('POST', '/v1/generate', {'prompt': 'title', 'inputs': 'the film'})[1]
    assert page.inner_text('#output') == expected['text']
    assert page.is_hidden('#labels')


def test_a_task_of_several_columns_asks_for_each(page):
    choose(page, 'pair')
    assert page.locator('#columns label').all_inner_texts() == ['first', 'second']
    assert page.is_hidden('#free')
    run(page, 'the film', 'the plot')
    assert page.inner_text('#output') in ('great', 'weak cold')


def test_the_plain_model_can_be_asked(page):
    choose(page, 'no prompt')
    run(page, 'film')
    assert page.inner_text('#output') not in ('', '–')


def test_the_nearest_words_of_the_prompt_are_shown(page, server):
    choose(page, 'one')
    playwright.expect(page.locator('#nearest td')).to_have_count(6)
    nearest = server.ask('GET', '/v1/prompts/one/nearest')[1]['rows'][0]
    cells = page.locator('#nearest td').all_inner_texts()
    assert cells == ['0', *(f'{one["word"]} {one["cosine"]:.2f}' for one in nearest)]


def test_what_is_refused_is_said_and_markup_stays_text(page):
    choose(page, 'marked')
    page.fill('#column0', '<img src=x onerror=alert(1)> <extra_id_99>')
    with (page.expect_response(is_answer) as answer,
          page.expect_console_message(is_problem)):  # the browser tells of answers above 399
        page.click('#run')
    assert answer.value.status == 409
    page.wait_for_selector('#problem:visible')
    assert 'stands 2 times' in page.inner_text('#problem')
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
