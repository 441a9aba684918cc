'use strict';

// Everything that comes from the server is put in as text, never as markup.

const find = (id) => document.getElementById(id);
const PLAIN = { name: '', columns: ['text'], labels: null, full: null };
const PAUSE = 2000; // milliseconds between looks for prompts
let prompts = [PLAIN];
let timer;
let listFailed = false;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function call(path, body) {
  const headers = {};
  const token = find('token').value;
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers['Content-Type'] = 'application/json';
  const options = { headers, method: body ? 'POST' : 'GET', body: body && JSON.stringify(body) };
  const answer = await fetch(path, options);
  const content = await answer.json();
  if (!answer.ok) {
    throw Object.assign(new Error(`${answer.status}: ${content.detail}`), { status: answer.status });
  }
  return content;
}

function complain(error) {
  find('problem').textContent = error ? error.message : '';
  find('problem').hidden = !error;
}

function chosen() {
  return prompts[Number(find('prompt').value)] || PLAIN;
}

async function loadPrompts() {
  const listed = await call('v1/prompts');
  find('model').textContent = `model: ${listed.model}`;
  const kept = chosen().full;
  prompts = listed.prompts.map((one) => ({ ...one, full: `${one.name}@${one.version}` }));
  prompts.push(PLAIN);
  find('prompt').replaceChildren(...prompts.map((one, number) => {
    const name = one.default ? `${one.name} (${one.version})` : one.full;
    const option = element('option', one === PLAIN ? 'no prompt: the plain model' : name);
    option.value = String(number);
    option.selected = one.full === kept;
    return option;
  }));
  if (kept === null) find('prompt').value = '0';
  if (chosen().full !== kept || !find('columns').hasChildNodes()) showPrompt();
}

// A server that starts takes its prompts up one by one; one without any may be given some.
async function keepLoading() {
  clearTimeout(timer);
  let again = false;
  try {
    const isReady = (await fetch('readyz')).ok; // asked first, so that the last list is whole
    await loadPrompts();
    again = !isReady || prompts.length === 1;
    if (listFailed) complain(null);
    listFailed = false;
  } catch (error) {
    again = error.status === 503;
    listFailed = true;
    complain(error);
  }
  if (again) timer = setTimeout(keepLoading, PAUSE);
}

function showPrompt() {
  const prompt = chosen();
  find('about').textContent = prompt === PLAIN ? 'The text goes to the model as it is.'
    : `${prompt.task}: ${prompt.layout}, ${prompt.rows} rows, template “${prompt.inputs_template}”`;
  const typed = new Map([...document.querySelectorAll('#columns textarea')].map(
    (area) => [area.name, area.value]));
  find('columns').replaceChildren(...prompt.columns.flatMap((column, number) => {
    const label = element('label', column);
    label.htmlFor = `column${number}`;
    const area = element('textarea');
    area.id = `column${number}`;
    area.name = column;
    area.value = typed.get(column) || '';
    area.required = true;
    return [label, area];
  }));
  find('free').hidden = prompt.labels !== null;
  find('choice').hidden = prompt.labels === null;
  loadNearest(prompt);
}

async function loadNearest(prompt) {
  const body = find('nearest').tBodies[0];
  body.replaceChildren();
  if (prompt === PLAIN) return;
  try {
    const found = await call(`v1/prompts/${encodeURIComponent(prompt.full)}/nearest?count=5`);
    if (prompt !== chosen()) return;
    body.replaceChildren(...found.rows.map((words, number) => {
      const row = element('tr');
      row.append(element('td', String(number), 'number'));
      for (const one of words) row.append(element('td', `${one.word} ${one.cosine.toFixed(2)}`));
      return row;
    }));
  } catch (error) {
    complain(error);
  }
}

function showAnswer(answer) {
  find('output').textContent = answer.label === undefined ? answer.text : answer.label;
  find('truncated').hidden = !answer.truncated;
  const table = find('labels');
  table.hidden = answer.probabilities === undefined;
  if (table.hidden) return;
  const sorted = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  table.tBodies[0].replaceChildren(...sorted.map(([label, probability]) => {
    const row = element('tr');
    const meter = element('meter');
    meter.value = probability;
    const cell = element('td');
    cell.append(meter);
    row.append(element('td', label), element('td', `${(100 * probability).toFixed(1)} %`, 'number'),
      cell);
    return row;
  }));
}

async function ask(event) {
  event.preventDefault();
  complain(null);
  const prompt = chosen();
  const texts = prompt.columns.map((column, number) => [column, find(`column${number}`).value]);
  const body = { prompt: prompt.full, inputs: prompt === PLAIN ? texts[0][1]
    : Object.fromEntries(texts) };
  find('run').disabled = true;
  try {
    if (prompt.labels === null) {
      body.temperature = Number(find('temperature').value);
      body.seed = Number(find('seed').value);
    } else {
      body.calibrate = find('calibrate').checked;
    }
    showAnswer(await call(prompt.labels === null ? 'v1/generate' : 'v1/classify', body));
  } catch (error) {
    complain(error);
  } finally {
    find('run').disabled = false;
  }
}

find('prompt').addEventListener('change', showPrompt);
find('ask').addEventListener('submit', ask);
find('token').addEventListener('change', keepLoading);
keepLoading();
