'use strict';
// Charts, the sortable table, and the viewer of single clips.
const page = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);

// ---- charts: a point leads to its clip.
document.addEventListener('click', (event) => {
  const link = event.target.closest('.chart a');
  if (!link) return;
  event.preventDefault();
  openCase(link.getAttribute('href').slice(1));
});

// ---- the table.
const body = document.querySelector('#cases tbody');
const heads = [...document.querySelectorAll('#cases th')];
const value = (row, column) => {
  const text = row.cells[column].dataset.v;
  if (text === '') return null;
  return isNaN(text) ? text.toLowerCase() : Number(text);
};
function sortBy(column, descending) {
  const rows = [...body.rows];
  rows.sort((a, b) => {
    const x = value(a, column), y = value(b, column);
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === typeof y
      ? (x < y ? -1 : x > y ? 1 : 0) : typeof x === 'number' ? -1 : 1;
    return descending ? -order : order;
  });
  body.append(...rows);
  heads.forEach((head, k) => head.setAttribute('aria-sort',
    k === column ? (descending ? 'descending' : 'ascending') : 'none'));
}
heads.forEach((head, column) => head.querySelector('button').addEventListener(
  'click', () => sortBy(column, head.getAttribute('aria-sort') === 'ascending')));
byId('filter').addEventListener('input', (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  byId('shown').textContent = shown + ' of ' + body.rows.length;
});
body.addEventListener('click', (event) => {
  const row = event.target.closest('tr');
  if (row && row.dataset.id) openCase(row.dataset.id);
});

// ---- the viewer.
const dialog = byId('viewer'), canvas = byId('picture'), scrub = byId('scrub');
const context = canvas.getContext('2d', {willReadFrequently: true});
const loaded = new Map();
let clip = null, strip = null, frame = 0, timer = null, wanted = null;

// Each file of cases/ calls this.
window.echoforgeCase = (id, content) => {
  loaded.set(id, content);
  if (loaded.size > 12) loaded.delete(loaded.keys().next().value);
  if (id === wanted) show(id);
};

function openCase(id) {
  wanted = id;
  const row = [...body.rows].find((r) => r.dataset.id === id);
  for (const other of body.rows) other.setAttribute('aria-selected', other === row);
  if (loaded.has(id)) { show(id); return; }
  byId('message').textContent = 'loading ...';
  const script = document.createElement('script');
  script.src = 'cases/' + encodeURIComponent(id) + '.js';
  script.onload = () => script.remove();
  script.onerror = () => {
    script.remove();
    byId('message').textContent = 'The folder cases/ is not beside this page, '
      + 'or holds no frames of this clip.';
    if (!dialog.open) dialog.showModal();
  };
  document.head.append(script);
}

function decode(runs, size) {
  const labels = new Uint8Array(size);
  for (let k = 0, at = 0; k < runs.length; k += 2) {
    labels.fill(runs[k], at, at + runs[k + 1]);
    at += runs[k + 1];
  }
  return labels;
}

function show(id) {
  clip = loaded.get(id);
  const size = clip.height * clip.width;
  clip.maps = clip.maps || {
    truth: clip.truth.map((runs) => runs && decode(runs, size)),
    prediction: clip.prediction.map((runs) => decode(runs, size))};
  byId('title').textContent = clip.patient + ' ' + clip.view;
  const facts = page.cases[id] || [];
  byId('facts').replaceChildren(...facts.map(([key, text]) => {
    const row = document.createElement('tr');
    for (const cell of [key, text]) {
      row.insertCell().textContent = cell;
    }
    row.cells[0].className = 'soft';
    return row;
  }));
  canvas.width = clip.width;
  canvas.height = clip.height;
  canvas.style.aspectRatio = clip.aspect;
  scrub.max = clip.frames - 1;
  byId('message').textContent = '';
  frame = 0;
  if (!dialog.open) dialog.showModal();  // The curve fits what is visible.
  drawCurve();
  strip = new Image();
  strip.onload = () => setFrame(0);
  strip.src = clip.strip;
  history.replaceState(null, '', '#' + id);
  scrub.focus();
}

// The labels of one class, or of all (0), of what is ticked.
function shownLabels(kind, wantedClass) {
  const map = clip.maps[kind][frame];
  if (!map || !byId(kind).checked) return new Uint8Array(clip.height * clip.width);
  return wantedClass ? map.map((label) => label === wantedClass ? label : 0) : map;
}

const colors = [null, [38, 190, 84], [230, 57, 53], [250, 214, 40]];
function draw() {
  if (!clip || !strip || !strip.complete) return;
  const {width, height} = clip;
  context.drawImage(strip, 0, frame * height, width, height, 0, 0, width, height);
  const style = byId('style').value;
  const [truth, prediction] = ['truth', 'prediction'].map(
    (kind) => shownLabels(kind, Number(byId('class').value)));
  const image = context.getImageData(0, 0, width, height);
  const edge = (map, k) => {
    const x = k % width, inside = (j) => map[j] === map[k];
    return map[k] && (x === 0 || x === width - 1 || k < width
      || k >= map.length - width || !inside(k - 1) || !inside(k + 1)
      || !inside(k - width) || !inside(k + width));
  };
  // 1 truth only, 2 prediction only (also where it is of another class), 3 both.
  const filled = (k) => prediction[k] ? (truth[k] === prediction[k] ? 3 : 2) : truth[k] ? 1 : 0;
  const outlined = (k) => (edge(truth, k) ? 1 : 0) + (edge(prediction, k) ? 2 : 0);
  const outline = style === 'outline', alpha = outline ? .9 : .38;
  for (let k = 0; k < truth.length; k++) {
    const color = colors[outline ? outlined(k) : filled(k)];
    if (!color) continue;
    for (let c = 0; c < 3; c++) {
      image.data[4 * k + c] += alpha * (color[c] - image.data[4 * k + c]);
    }
  }
  context.putImageData(image, 0, 0);
  const chosen = byId('class').selectedOptions[0].textContent;
  const names = chosen === 'all' ? Object.keys(clip.dice) : [chosen];
  const dice = names.map((name) => [name, (clip.dice[name] || [])[frame]])
    .filter((pair) => pair[1] !== null && pair[1] !== undefined)
    .map(([name, value]) => (names.length > 1 ? name.toUpperCase() + ' ' : '')
      + (100 * value).toFixed(1) + ' %');
  const phase = frame === 0 ? ', ED' : frame === clip.frames - 1 ? ', ES' : '';
  byId('frame').textContent = 'frame ' + (frame + 1) + ' of ' + clip.frames + phase
    + (dice.length ? ', Dice ' + dice.join(', ') : ', no label');
}

function setFrame(t) {
  frame = (t + clip.frames) % clip.frames;
  scrub.value = frame;
  scrub.setAttribute('aria-valuetext', 'frame ' + (frame + 1));
  draw();
  const cursor = byId('cursor');
  cursor.setAttribute('x1', xOf(frame));
  cursor.setAttribute('x2', xOf(frame));
}

// ---- the area curve; a click goes to the nearest frame.
const curve = byId('areas');
const box = {left: 52, right: 448, top: 26, bottom: 200};
function xOf(t) {
  const share = clip.frames > 1 ? t / (clip.frames - 1) : .5;
  return box.left + share * (box.right - box.left);
}

function tickStep(range) {  // 1, 2 or 5 times a power of ten; at most five.
  const power = 10 ** Math.floor(Math.log10(range / 5));
  return power * [1, 2, 5, 10].find((k) => k * power >= range / 5);
}

function drawCurve() {
  const [unit, scale] = clip.unit === 'mm' ? ['cm²', .01] : ['px²', 1];
  const series = [['truth', '#26be54', clip.truth_areas],
    ['prediction', '#e63935', clip.areas]];
  const known = series.flatMap((s) => s[2]).filter((a) => a !== null);
  const top = 1.06 * Math.max(scale * Math.max(...known), 1e-6);
  const yOf = (area) => box.bottom - (box.bottom - box.top) * area / top;
  const parts = [];
  const text = (x, y, anchor, content) => parts.push(
    `<text x="${x}" y="${y}" text-anchor="${anchor}">${content}</text>`);
  const line = (x, y, x2, y2, more) => parts.push(
    `<line x1="${x}" y1="${y}" x2="${x2}" y2="${y2}" ${more}/>`);
  const step = tickStep(top);
  for (let area = 0; area <= top; area += step) {
    line(box.left, yOf(area), box.right, yOf(area), '');
    text(box.left - 7, yOf(area) + 4, 'end', Number(area.toPrecision(6)));
  }
  const every = Math.ceil(clip.frames / 10);
  for (let t = 0; t < clip.frames; t += every) {
    text(xOf(t), box.bottom + 16, 'middle', t + 1);
  }
  text((box.left + box.right) / 2, box.bottom + 34, 'middle', 'frame');
  text(box.left, 14, 'middle', 'ED');
  text(box.right, 14, 'middle', 'ES');
  text((box.left + box.right) / 2, 14, 'middle', `cavity area (${unit})`);
  for (const t of [0, clip.frames - 1]) {
    line(xOf(t), box.top, xOf(t), box.bottom, 'class="end"');
  }
  line(xOf(frame), box.top, xOf(frame), box.bottom, 'id="cursor"');
  for (const [name, color, areas] of series) {
    const points = areas.map((a, t) => a === null ? null
      : [xOf(t).toFixed(1), yOf(scale * a).toFixed(1), t]);
    points.forEach((p, t) => {
      const next = points[t + 1];
      if (p && next) {
        line(p[0], p[1], next[0], next[1],
          `style="stroke: ${color}; stroke-width: 2"`);
      }
      if (p) {
        parts.push(`<circle cx="${p[0]}" cy="${p[1]}" r="3" fill="${color}">`
          + `<title>${name}, frame ${t + 1}: `
          + `${(scale * areas[t]).toPrecision(4)} ${unit}</title></circle>`);
      }
    });
  }
  curve.innerHTML = parts.join('');
}
curve.addEventListener('click', (event) => {
  const {left, width} = curve.getBoundingClientRect();
  const x = (event.clientX - left) / width * curve.viewBox.baseVal.width;
  const share = (x - box.left) / (box.right - box.left);
  setFrame(Math.round(Math.min(Math.max(share, 0), 1) * (clip.frames - 1)));
});

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => setFrame(frame + 1), 120) : null;
  byId('play').textContent = on ? 'Pause' : 'Play';
}
scrub.addEventListener('input', () => setFrame(Number(scrub.value)));
byId('play').addEventListener('click', () => play(!timer));
for (const id of ['truth', 'prediction', 'style', 'class']) {
  byId(id).addEventListener('change', draw);
}
function step(by) {
  const rows = [...body.rows].filter((row) => !row.hidden && row.dataset.id);
  const now = rows.findIndex((row) => row.dataset.id === wanted);
  const next = rows[now + by];
  if (next) openCase(next.dataset.id);
}
byId('previous').addEventListener('click', () => step(-1));
byId('next').addEventListener('click', () => step(1));
byId('close').addEventListener('click', () => dialog.close());
dialog.addEventListener('close', () => {
  play(false);
  history.replaceState(null, '', '#');
});
dialog.addEventListener('click', (event) => {
  if (event.target === dialog) dialog.close();
});
dialog.addEventListener('keydown', (event) => {
  if (event.target.matches('select, input[type=checkbox]')) return;
  const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (move) {
    setFrame(frame + move);
    event.preventDefault();
  } else if (event.key === ' ' && event.target.tagName !== 'BUTTON') {
    play(!timer);
    event.preventDefault();
  }
});
const first = decodeURIComponent(location.hash.slice(1));
if (first && page.cases[first]) openCase(first);
