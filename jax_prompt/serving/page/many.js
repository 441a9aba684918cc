// Asks for a pasted column of texts, and makes a table of the answers to download.

import { ask, complain, element, find, percent } from './answers.js';

const MOST_ROWS = 1000; // `jax-prompt predict` is for more
const AT_ONCE = 6; // a browser opens no more connections to a server
const TRIES = 5; // of a row that a full server puts off
const PAUSE = 1000; // milliseconds between them
let table = []; // of what is shown: rows of cells, the first names them
let columns = ['text'];
let isStopped = false;

// Reads what a spreadsheet copies: lines of cells with tabs between them; a cell is quoted where it
// holds either, with quotation marks doubled.
export function readCells(pasted) {
  const cell = /"((?:[^"]|"")*)"(?=\t|\r?\n|$)|[^\t\r\n]*/y;
  const rows = [[]];
  for (let at = 0; at <= pasted.length;) {
    cell.lastIndex = at;
    const found = cell.exec(pasted);
    const value = found[1] === undefined ? found[0] : found[1].replaceAll('""', '"');
    rows.at(-1).push(value);
    at += found[0].length;
    if (at < pasted.length && pasted[at] !== '\t') {
      rows.push([]);
      if (pasted.startsWith('\r\n', at)) at += 1;
    }
    at += 1;
  }
  return rows.filter((row) => row.some((value) => value.trim()));
}

// Returns column -> text for each row; a first row that names all columns says where they stand.
function readTexts(pasted) {
  const rows = readCells(pasted);
  const isNamed = rows.length > 1 && columns.every((column) => rows[0].includes(column));
  const names = isNamed ? rows.shift() : columns;
  if (!rows.length || rows.length > MOST_ROWS) {
    throw new Error(`${rows.length} rows; expected 1 to ${MOST_ROWS}: jax-prompt predict takes `
      + 'files of any size');
  }
  return rows.map((row, number) => {
    if (row.length !== names.length) {
      throw new Error(`row ${number + 1} has ${row.length} cells; expected ${names.length}, with `
        + `tabs between them: ${names.join(', ')}`);
    }
    return Object.fromEntries(names.map((name, place) => [name, row[place]]));
  });
}

export function writeCsv(rows) {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return rows.map((row) => `${row.map(String).map(quoted).join(',')}\r\n`).join('');
}

export function showColumns(names) {
  columns = names;
  find('pasted-how').hidden = names.length === 1;
  find('pasted-how').textContent = names.length === 1 ? ''
    : `${names.length} columns with tabs between them: ${names.join(', ')}`;
}

async function askPatiently(prompt, texts) {
  for (let left = TRIES; ; left -= 1) {
    try {
      return await ask(prompt, texts);
    } catch (error) {
      if (error.status !== 503 || left <= 1 || isStopped) throw error;
      await new Promise((resolve) => { setTimeout(resolve, PAUSE); });
    }
  }
}

// Cells of an answer: text, probability, and what is to be said of it.
async function cellsOf(prompt, texts) {
  try {
    const { text, probability, truncated } = await askPatiently(prompt, texts);
    return [text, probability ?? '', truncated ? 'text was cut' : ''];
  } catch (error) {
    return ['', '', error.message];
  }
}

function showRow(cells) {
  const row = element('tr');
  row.append(...cells.map((cell) => (typeof cell === 'number'
    ? element('td', percent(cell), 'number') : element('td', cell))));
  return row;
}

function showHead(names) {
  const row = element('tr');
  row.append(...names.map((name) => {
    const head = element('th', name);
    head.scope = 'col';
    return head;
  }));
  find('table').querySelector('thead').replaceChildren(row);
}

function tell(prompts, answered, count) {
  let text = `${answered.length} of ${count} rows`;
  if (prompts.length === 2 && answered.length) {
    const same = answered.filter((row) => row.at(-6) !== '' && row.at(-6) === row.at(-3)).length;
    text += `; the two say the same of ${same} (${percent(same / answered.length)})`;
  }
  find('many-state').textContent = text;
}

async function answerAll(prompts, names, rows) {
  const body = find('table').querySelector('tbody');
  const found = new Array(rows.length); // in the order of what was pasted, whichever comes first
  let next = 0;
  const work = async () => {
    while (next < rows.length && !isStopped) {
      const number = next;
      next += 1;
      const answers = await Promise.all(prompts.map((one) => cellsOf(one, rows[number])));
      found[number] = [...names.map((column) => rows[number][column]), ...answers.flat()];
      const before = found.slice(0, number).filter(Boolean).length;
      body.insertBefore(showRow(found[number]), body.children[before] || null);
      const answered = found.filter(Boolean);
      table = [table[0], ...answered];
      find('done').value = answered.length;
      tell(prompts, answered, rows.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

function showRunning(isRunning) {
  find('run-all').hidden = isRunning;
  find('stop').hidden = !isRunning;
  find('done').hidden = !isRunning;
  find('download').disabled = true;
}

// Answers all that is pasted, by one prompt or two.
export async function runMany(prompts) {
  let rows;
  try {
    rows = readTexts(find('pasted').value);
    complain(find('many-problem'), null);
  } catch (error) {
    complain(find('many-problem'), error);
    return;
  }
  const names = columns;
  const titles = prompts.map((prompt) => prompt.full || 'no prompt');
  table = [[...names, ...titles.flatMap((one) => [one, `${one} probability`, `${one} note`])]];
  showHead([...names, ...titles.flatMap((one) => [one, 'probability', 'note'])]);
  find('table').querySelector('tbody').replaceChildren();
  find('table').hidden = false;
  Object.assign(find('done'), { max: rows.length, value: 0 });
  showRunning(true);
  isStopped = false;
  await answerAll(prompts, names, rows);
  showRunning(false);
  find('download').disabled = table.length === 1;
}

find('most').textContent = String(MOST_ROWS);
find('stop').addEventListener('click', () => { isStopped = true; });
find('download').addEventListener('click', () => {
  // The mark at the beginning tells spreadsheets that it is UTF-8.
  const url = URL.createObjectURL(new Blob([`\ufeff${writeCsv(table)}`], { type: 'text/csv' }));
  const link = element('a');
  Object.assign(link, { href: url, download: 'answers.csv' });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
