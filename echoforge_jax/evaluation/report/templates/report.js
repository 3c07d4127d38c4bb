'use strict';
// Plots, the sortable table, and the viewer of single clips.
const page = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const config = {displaylogo: false, responsive: true,
  modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']};

// ---- plots: a point leads to its clip.
for (const [name, plot] of Object.entries(page.plots)) {
  const place = byId('plot-' + name);
  if (!place) continue;
  Plotly.newPlot(place, plot.data, plot.layout, config).then(() => {
    place.on('plotly_click', (event) => {
      const id = event.points[0].customdata;
      if (typeof id === 'string') openCase(id);
    });
  });
}

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

// 1 truth only, 2 prediction only, 3 both.
function overlap(t, wantedClass) {
  const truth = clip.maps.truth[t], prediction = clip.maps.prediction[t];
  const found = new Uint8Array(prediction.length);
  for (let k = 0; k < found.length; k++) {
    found[k] = (truth && truth[k] === wantedClass && byId('truth').checked)
      + 2 * (prediction[k] === wantedClass && byId('prediction').checked);
  }
  return found;
}

const colors = [null, [38, 190, 84], [230, 57, 53], [250, 214, 40]];
function draw() {
  if (!clip || !strip || !strip.complete) return;
  const {width, height} = clip;
  context.drawImage(strip, 0, frame * height, width, height, 0, 0, width, height);
  const style = byId('style').value;
  const found = overlap(frame, Number(byId('class').value));
  const image = context.getImageData(0, 0, width, height);
  const edge = (k, bit) => {
    const x = k % width, inside = (j) => found[j] & bit;
    return (found[k] & bit) && (x === 0 || x === width - 1 || k < width
      || k >= found.length - width || !inside(k - 1) || !inside(k + 1)
      || !inside(k - width) || !inside(k + width));
  };
  for (let k = 0; k < found.length; k++) {
    let color = colors[found[k]], alpha = .38;
    if (style === 'outline') {
      const code = (edge(k, 1) ? 1 : 0) + (edge(k, 2) ? 2 : 0);
      color = colors[code];
      alpha = .9;
    }
    if (!color) continue;
    for (let c = 0; c < 3; c++) {
      image.data[4 * k + c] += alpha * (color[c] - image.data[4 * k + c]);
    }
  }
  context.putImageData(image, 0, 0);
  const name = byId('class').selectedOptions[0].textContent;
  const dice = (clip.dice[name] || [])[frame];
  const phase = frame === 0 ? ', ED' : frame === clip.frames - 1 ? ', ES' : '';
  byId('frame').textContent = 'frame ' + (frame + 1) + ' of ' + clip.frames + phase
    + (dice === null || dice === undefined ? ', no label'
      : ', Dice ' + (100 * dice).toFixed(1) + ' %');
}

function setFrame(t) {
  frame = (t + clip.frames) % clip.frames;
  scrub.value = frame;
  scrub.setAttribute('aria-valuetext', 'frame ' + (frame + 1));
  draw();
  Plotly.relayout('areas', {shapes: lines()});
}

function lines() {
  const line = (x, dash, color) => ({type: 'line', x0: x, x1: x, y0: 0, y1: 1,
    yref: 'paper', line: {width: 1.2, dash, color}});
  return [line(1, 'dot', '#8a94a0'), line(clip.frames, 'dot', '#8a94a0'),
    line(frame + 1, 'solid', '#c8641e')];
}

function drawCurve() {
  const x = clip.areas.map((_, k) => k + 1);
  const trace = (y, name, color) => ({x, y, name, mode: 'lines+markers',
    line: {color, width: 2}, marker: {size: 5, color},
    hovertemplate: name + ' %{y:.3~g}<extra></extra>'});
  const note = (at, text) => ({x: at, y: 1.02, yref: 'paper', yanchor: 'bottom',
    text, showarrow: false});
  const axis = {gridcolor: 'rgba(128,140,150,.22)', zeroline: false};
  const [square, scale] = clip.unit === 'mm' ? ['cm²', .01] : ['px²', 1];
  const scaled = (areas) => areas.map((a) => a === null ? null : scale * a);
  Plotly.react('areas', [trace(scaled(clip.truth_areas), 'truth', '#26be54'),
    trace(scaled(clip.areas), 'prediction', '#e63935')], {
    height: 240, margin: {l: 58, r: 10, t: 24, b: 40}, showlegend: true,
    legend: {orientation: 'h', y: 1.02, yanchor: 'bottom', x: .5, xanchor: 'center'},
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {size: 12, color: '#77828d'},
    xaxis: {...axis, title: {text: 'frame'}, dtick: Math.ceil(clip.frames / 10)},
    yaxis: {...axis, title: {text: 'cavity area (' + square + ')'},
      rangemode: 'tozero'},
    annotations: [note(1, 'ED'), note(clip.frames, 'ES')], shapes: lines(),
  }, {displayModeBar: false, responsive: true}).then((plot) => {
    plot.removeAllListeners('plotly_click');
    plot.on('plotly_click', (event) => setFrame(event.points[0].x - 1));
  });
}

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
