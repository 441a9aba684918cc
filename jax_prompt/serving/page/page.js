// Chooses prompts and asks for one text; `many.js` for a column of them.

import { PLAIN, call, complain, element, find, makeCard, percent, showAnswer, withoutPrompt }
  from './answers.js';
import { runMany, showColumns } from './many.js';

const PAUSE = 2000; // milliseconds between looks for prompts
let prompts = [PLAIN];
let timer;
let listFailed = false;

const chosen = () => prompts[Number(find('prompt').value)] || PLAIN;

// What stands beside it, if anything: another prompt, or the same task without one.
function other() {
  const one = prompts[Number(find('other').value || NaN)];
  return one === PLAIN ? withoutPrompt(chosen()) : one;
}

const asked = () => [chosen(), other()].filter(Boolean);
const columnsOf = (all) => [...new Set(all.flatMap((prompt) => prompt.columns))];

function fillSelect(select, first, kept) {
  const options = prompts.map((one, number) => {
    const option = element('option', one.title);
    option.value = String(number);
    option.selected = one.full === kept;
    return option;
  });
  select.replaceChildren(...first, ...options);
}

async function loadPrompts() {
  const listed = await call('v1/prompts');
  find('model').textContent = `model: ${listed.model}`;
  const kept = chosen().full;
  const keptOther = other()?.full;
  prompts = listed.prompts.map((one) => {
    const full = `${one.name}@${one.version}`;
    const marks = [...(one.promoted ? ['promoted'] : []),
      ...(one.canary_share ? [`canary ${percent(one.canary_share)}`] : []), ...one.tags];
    const title = one.default ? `${one.name} (${one.version})` : full;
    return { ...one, full, title: [title, ...marks].join(' · ') };
  });
  prompts.push(PLAIN);
  fillSelect(find('prompt'), [], kept);
  const nothing = element('option', 'nothing');
  nothing.value = '';
  fillSelect(find('other'), [nothing], keptOther);
  if (kept === null) find('prompt').value = '0';
  const isOther = chosen().full !== kept || other()?.full !== keptOther;
  if (isOther || !find('columns').hasChildNodes()) showPrompts();
}

// A server that starts takes its prompts up one by one; one without any may be given some.
async function keepLoading() {
  clearTimeout(timer);
  let again = false;
  try {
    const isReady = (await fetch('readyz')).ok; // asked first, so that the last list is whole
    await loadPrompts();
    again = !isReady || prompts.length === 1;
    if (listFailed) complain(find('problem'), null);
    listFailed = false;
  } catch (error) {
    again = error.status === 503;
    listFailed = true;
    complain(find('problem'), error);
  }
  if (again) timer = setTimeout(keepLoading, PAUSE);
}

function about(prompt) {
  if (prompt === undefined) return '';
  if (prompt === PLAIN) return 'The text goes to the model as it is.';
  if (prompt.full === null) return `The same template, “${prompt.inputs_template}”, without rows`;
  const metrics = Object.entries(prompt.metrics).slice(0, 1).map(
    ([name, value]) => `, ${name} ${value.toFixed(3)}`);
  return `${prompt.task}: ${prompt.layout}, ${prompt.rows} rows, template `
    + `“${prompt.inputs_template}”${metrics.join('')}`;
}

function showPrompts() {
  const all = asked();
  find('about').textContent = about(all[0]);
  find('about-other').textContent = about(all[1]);
  const columns = columnsOf(all);
  const typed = texts();
  find('columns').replaceChildren(...columns.map((column, number) => {
    const place = element('div');
    const label = element('label', column);
    label.htmlFor = `column${number}`;
    const area = element('textarea');
    area.id = `column${number}`;
    area.name = column;
    area.value = typed[column] ?? '';
    area.required = true;
    place.append(label, area);
    return place;
  }));
  find('free').hidden = all.every((prompt) => prompt.labels !== null);
  find('choice').hidden = all.every((prompt) => prompt.labels === null);
  find('answers').replaceChildren(...all.map(makeCard));
  showColumns(columns);
  loadExamples(all[0]);
}

function texts() {
  const areas = [...document.querySelectorAll('#columns textarea')];
  return Object.fromEntries(areas.map((area) => [area.name, area.value]));
}

async function loadExamples(prompt) {
  let examples = [];
  complain(find('examples-problem'), null);
  try {
    if (prompt.full !== null) {
      const found = await call(`v1/prompts/${encodeURIComponent(prompt.full)}/examples`);
      examples = found.examples;
    }
  } catch (error) {
    complain(find('examples-problem'), error);
  }
  if (prompt.full !== chosen().full) return;
  find('examples').hidden = !examples.length;
  find('examples').querySelector('ul').replaceChildren(...examples.map((example) => {
    const item = element('li');
    const button = element('button', Object.values(example).join(' · '));
    button.type = 'button';
    button.addEventListener('click', () => {
      for (const area of document.querySelectorAll('#columns textarea')) {
        if (area.name in example) area.value = String(example[area.name]);
      }
      find('ask').requestSubmit();
    });
    item.append(button);
    return item;
  }));
}

async function run(event) {
  event.preventDefault();
  if (find('run').disabled) return; // an example was clicked meanwhile
  complain(find('problem'), null);
  find('run').disabled = true;
  const cards = [...find('answers').children];
  await Promise.all(asked().map((prompt, number) => showAnswer(cards[number], prompt, texts())));
  find('run').disabled = false;
}

find('prompt').addEventListener('change', showPrompts);
find('other').addEventListener('change', showPrompts);
find('ask').addEventListener('submit', run);
find('token').addEventListener('change', keepLoading);
find('many').addEventListener('submit', (event) => {
  event.preventDefault();
  runMany(asked());
});
keepLoading();
