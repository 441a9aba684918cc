// Asks the server, and shows its answers. Everything that comes from it is put in as text, never as
// markup.

export const find = (id) => document.getElementById(id);
export const PLAIN = {
  title: 'no prompt: the plain model', columns: ['text'], inputs_template: '{text}',
  task_template: '{text}', labels: null, full: null,
};

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function complain(place, error) {
  place.textContent = error ? error.message : '';
  place.hidden = !error;
}

export async function call(path, body) {
  const headers = {};
  const token = find('token').value;
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers['Content-Type'] = 'application/json';
  const options = { headers, method: body ? 'POST' : 'GET', body: body && JSON.stringify(body) };
  const answer = await fetch(path, options);
  const content = await answer.json();
  if (!answer.ok) {
    if (answer.status === 401) find('access').hidden = false;
    const { status } = answer;
    throw Object.assign(new Error(`${status}: ${content.detail}`), { status });
  }
  return content;
}

// The same question without the prompt: the task's template and labels, put to the plain model.
export function withoutPrompt(prompt) {
  return { ...prompt, title: PLAIN.title, full: null, inputs_template: prompt.task_template };
}

function render(template, texts) {
  return template.replace(/{{|}}|{([^{}]+)}/g,
    (found, column) => (column === undefined ? found[0] : texts[column]));
}

// Returns a promise of {text, probability, probabilities, truncated}.
export async function ask(prompt, texts) {
  const own = Object.fromEntries(prompt.columns.map((column) => [column, texts[column]]));
  const body = { prompt: prompt.full,
    inputs: prompt.full === null ? render(prompt.inputs_template, own) : own };
  if (prompt.labels === null) {
    body.temperature = Number(find('temperature').value);
    body.seed = Number(find('seed').value);
    const { text, truncated } = await call('v1/generate', body);
    return { text, truncated };
  }
  body.calibrate = find('calibrate').checked;
  if (prompt.full === null) body.labels = prompt.labels;
  const { label, probabilities, truncated } = await call('v1/classify', body);
  return { text: label, probability: probabilities[label], probabilities, truncated };
}

export const percent = (probability) => `${(100 * probability).toFixed(1)} %`;

// A card with room for the answer of a prompt.
export function makeCard(prompt) {
  const card = find('answer').content.cloneNode(true).firstElementChild;
  card.querySelector('h3').textContent = prompt.title;
  const nearest = card.querySelector('.nearest');
  nearest.hidden = prompt.full === null || !prompt.rows; // a design may have none
  nearest.addEventListener('toggle', () => {
    if (nearest.open && !nearest.querySelector('td')) showNearest(prompt, card);
  });
  return card;
}

async function showNearest(prompt, card) {
  try {
    const found = await call(`v1/prompts/${encodeURIComponent(prompt.full)}/nearest?count=5`);
    card.querySelector('.nearest tbody').replaceChildren(...found.rows.map((words, number) => {
      const row = element('tr');
      row.append(element('td', String(number), 'number'));
      for (const one of words) row.append(element('td', `${one.word} ${one.cosine.toFixed(2)}`));
      return row;
    }));
  } catch (error) {
    complain(card.querySelector('.problem'), error);
  }
}

function labelRow([label, probability]) {
  const row = element('tr');
  const cell = element('td', undefined, 'bar');
  const bar = element('span');
  bar.style.width = `${100 * probability}%`;
  cell.append(bar);
  row.append(element('td', label), element('td', percent(probability), 'number'), cell);
  return row;
}

// Puts the answer to texts, or why there is none, into a card.
export async function showAnswer(card, prompt, texts) {
  let answer = { text: '–', truncated: false };
  try {
    complain(card.querySelector('.problem'), null);
    answer = await ask(prompt, texts);
  } catch (error) {
    complain(card.querySelector('.problem'), error);
  }
  card.querySelector('.output').textContent = answer.text;
  card.querySelector('.truncated').hidden = !answer.truncated;
  const table = card.querySelector('.labels');
  table.hidden = answer.probabilities === undefined;
  const sorted = Object.entries(answer.probabilities || {}).sort((a, b) => b[1] - a[1]);
  table.tBodies[0].replaceChildren(...sorted.map(labelRow));
}
