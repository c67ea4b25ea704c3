// Draws the figures of the page, and the tables of their numbers.
//
// Each <figure class="plot"> has its data as JSON, made by page/figures.py.
// Text goes into the page by textContent alone, and into Plotly, which reads
// some HTML, only through `text`.
'use strict';

const NARROW = 560; // pixels of a figure under which its colour bar lies below
const CONFIG = {
  responsive: true,
  displaylogo: false,
  // A click on the button that this removes would send the figure to a cloud.
  showSendToCloud: false,
  plotlyServerURL: '',
  modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']],
};

const styles = () => getComputedStyle(document.documentElement);
const colour = (name) => styles().getPropertyValue(name).trim();
const colours = (name) => colour(name).split(',').map((c) => c.trim());

// Text for Plotly, in which `<` begins no tag and `&` no entity.
const text = (value) =>
  String(value).replace(/&/g, '&amp;').replace(/</g, '&lt;');

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// A menu with a label; calls `change` with the index of what is chosen.
function menu(label, names, first, change) {
  const select = make('select');
  names.forEach((name, i) => select.append(make('option', {value: i}, name)));
  select.value = first;
  select.addEventListener('change', () => change(Number(select.value)));
  return {element: make('label', {}, label, select), select};
}

// A slider over frames in an order, with a button that plays them on request.
function slider(label, names, first, change) {
  const input = make('input', {
    type: 'range', min: 0, max: names.length - 1, step: 1,
  });
  input.value = first;
  const shown = make('output', {}, names[first]);
  const button = make('button', {type: 'button'}, 'Play');
  let timer = null;
  const go = (i) => {
    input.value = i;
    input.setAttribute('aria-valuetext', `${label} ${names[i]}`);
    shown.textContent = names[i];
    change(i);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = 'Play';
  };
  input.setAttribute('aria-valuetext', `${label} ${names[first]}`);
  input.addEventListener('input', () => {
    stop();
    go(Number(input.value));
  });
  button.addEventListener('click', () => {
    if (timer !== null) return stop();
    button.textContent = 'Stop';
    let i = Number(input.value);
    if (i >= names.length - 1) i = -1;
    timer = setInterval(() => {
      i += 1;
      go(i);
      if (i >= names.length - 1) stop();
    }, 350);
  });
  const box = make('div', {class: 'slider'});
  box.append(make('label', {}, label), input, shown, button);
  box.querySelector('label').append(input);
  return {element: box};
}

// A colour scale: `names` at even distances, or with the middle one at `at`.
function scale(names, at = null) {
  const last = names.length - 1;
  const middle = last / 2;
  return names.map((name, i) => {
    if (at === null) return [i / last, name];
    const place = i <= middle
      ? (i / middle) * at
      : at + ((i - middle) / middle) * (1 - at);
    return [Math.min(1, Math.max(0, place)), name];
  });
}

function axis(title, extra = {}) {
  return {
    title: {text: text(title || ''), standoff: 8},
    automargin: true,
    gridcolor: colour('--grid'),
    linecolor: colour('--line'),
    zerolinecolor: colour('--line'),
    tickcolor: colour('--line'),
    ...extra,
  };
}

function layout(height, extra = {}) {
  return {
    height,
    autosize: true,
    margin: {l: 12, r: 12, t: 12, b: 12},
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    font: {
      family: getComputedStyle(document.body).fontFamily,
      size: 13,
      color: colour('--text'),
    },
    hoverlabel: {
      bgcolor: colour('--raised'),
      bordercolor: colour('--line'),
      font: {color: colour('--text')},
    },
    modebar: {
      bgcolor: 'rgba(0,0,0,0)',
      color: colour('--soft'),
      activecolor: colour('--accent'),
    },
    ...extra,
  };
}

// Of published curves, which have one colour.
const DASHES = ['dash', 'dot', 'dashdot', 'longdash'];
const SYMBOLS = ['circle-open', 'square-open', 'diamond-open',
  'triangle-up-open', 'cross-open', 'x-open', 'star-open', 'hexagon-open'];

// By kind of a figure: its traces and layout for Plotly, and its table.
const KINDS = {
  lines: {
    draw(figure, width) {
      const traces = [];
      let number = 0;
      let dashed = 0;
      for (const curve of figure.curves) {
        const muted = curve.thin || curve.dash;
        const place = curve.colour ?? number++;
        const own = muted ? colour('--c7') : colour(`--c${place % 7}`);
        if (curve.low) {
          traces.push({
            type: 'scatter', mode: 'lines', hoverinfo: 'skip',
            showlegend: false, fill: 'toself', line: {width: 0},
            fillcolor: own, opacity: 0.18,
            x: [...curve.x, ...[...curve.x].reverse()],
            y: [...curve.high, ...[...curve.low].reverse()],
          });
        }
        const few = curve.x.length <= 12;
        traces.push({
          type: 'scatter',
          name: text(curve.name),
          mode: few && !curve.thin ? 'lines+markers' : 'lines',
          x: curve.x.map((v) => (typeof v === 'string' ? text(v) : v)),
          y: curve.y,
          line: {
            color: own,
            width: muted ? 1 : 2,
            dash: curve.dash ? DASHES[dashed % DASHES.length] : 'solid',
          },
          marker: {
            size: 6,
            symbol: curve.dash ? SYMBOLS[dashed++ % SYMBOLS.length] : 'circle',
          },
          hovertemplate: '%{y:.4~g}',
        });
      }
      const several = figure.curves.length > 1;
      const longest = Math.max(...figure.curves.map((c) => c.name.length), 1);
      const beside = Math.max(1, Math.floor(width / (longest * 7 + 55)));
      const rows = several ? Math.ceil(figure.curves.length / beside) : 0;
      return [traces, layout(300 + 21 * rows, {
        hovermode: 'x unified',
        showlegend: several,
        legend: {
          orientation: 'h', yref: 'container', yanchor: 'bottom', y: 0, x: 0,
        },
        xaxis: axis(figure.x, {
          dtick: figure.every,
          showspikes: false,
        }),
        yaxis: axis(figure.y, {
          type: figure.logarithmic ? 'log' : undefined,
          range: figure.range,
        }),
      })];
    },
    table(figure) {
      const places = [...new Set(figure.curves.flatMap((c) => c.x))];
      const numeric = places.every((x) => typeof x === 'number');
      if (numeric) places.sort((a, b) => a - b);
      const known = figure.curves.map((c) => new Map(
        c.x.map((x, i) => [x, i])));
      const cell = (c, i) => {
        if (i === undefined) return null;
        const value = number(c.y[i]);
        return c.low && c.low[i] !== null
          ? `${value} [${number(c.low[i])}, ${number(c.high[i])}]` : value;
      };
      return {
        head: [figure.x, ...figure.curves.map((c) => c.name)],
        rows: places.map((x) => [x, ...figure.curves.map(
          (c, n) => cell(c, known[n].get(x)))]),
      };
    },
  },
  heat: {
    draw(figure, width) {
      const values = figure.z.flat().filter((v) => v !== null);
      const least = figure.least ?? Math.min(...values);
      const most = figure.most ?? Math.max(...values);
      const range = most - least || 1;
      const diverging = figure.middle !== undefined;
      const narrow = width < NARROW;
      const names = figure.rows.map(text);
      const trace = {
        type: 'heatmap',
        z: figure.z,
        x: figure.columns.map(text),
        y: names,
        zmin: least,
        zmax: most,
        colorscale: diverging
          ? scale(colours('--div'), (figure.middle - least) / range)
          : scale(colours('--seq')),
        xgap: figure.columns.length <= 64 ? 1 : 0,
        ygap: figure.rows.length <= 64 ? 1 : 0,
        hovertemplate: `%{y}, ${text(figure.x.toLowerCase())} %{x}<br>`
          + '%{z:.4~g}<extra></extra>',
        colorbar: {
          title: {text: text(figure.value), side: narrow ? 'top' : 'right',
            font: {size: 12}},
          orientation: narrow ? 'h' : 'v',
          thickness: 12,
          outlinewidth: 0,
          ...(narrow ? {y: -0.35, yanchor: 'top', len: 0.9} : {len: 1}),
        },
      };
      const cell = Math.min(24, Math.max(6, 480 / figure.rows.length));
      const height = Math.max(230, figure.rows.length * cell + 90)
        + (narrow ? 80 : 0);
      return [[trace], layout(height, {
        xaxis: axis(figure.x, {type: 'category', showgrid: false,
          nticks: Math.max(4, Math.floor(width / 40))}),
        yaxis: axis(figure.y, {type: 'category', showgrid: false,
          autorange: 'reversed', nticks: 30}),
      })];
    },
    table(figure) {
      return {
        head: [figure.y || '', ...figure.columns],
        rows: figure.rows.map((name, r) => [
          name, ...figure.z[r].map(number)]),
      };
    },
  },
  bars: {
    draw(figure) {
      const trace = {
        type: 'bar',
        orientation: 'h',
        y: figure.names.map(text),
        x: figure.values,
        marker: {color: colour('--c0')},
        text: figure.values.map((v) => text(number(v))),
        textposition: 'auto',
        hovertemplate: '%{y}: %{x:.4~g}<extra></extra>',
      };
      return [[trace], layout(figure.names.length * 30 + 80, {
        xaxis: axis(figure.x),
        yaxis: axis('', {autorange: 'reversed', type: 'category'}),
      })];
    },
    table(figure) {
      return {
        head: [figure.y, figure.x],
        rows: figure.names.map((name, i) => [name, number(figure.values[i])]),
      };
    },
  },
};

function number(value) {
  if (value === null || value === undefined) return '–';
  return typeof value === 'number' ? String(Number(value.toPrecision(4))) : value;
}

// Most rows of a table under a figure: a browser lays out no more at once.
const MOST_ROWS = 1000;

function fillTable(place, {head, rows}) {
  const body = make('tbody');
  for (const row of rows.slice(0, MOST_ROWS)) {
    const cells = row.map((cell, i) => make(i ? 'td' : 'th',
      i ? {} : {scope: 'row'}, cell === null ? '–' : String(cell)));
    body.append(make('tr', {}, ...cells));
  }
  const top = make('tr', {}, ...head.map(
    (name) => make('th', {scope: 'col'}, String(name))));
  place.replaceChildren(make('table', {}, make('thead', {}, top), body));
  if (rows.length > MOST_ROWS) {
    place.append(make('p', {}, `The first ${MOST_ROWS} of ${rows.length} rows.`));
  }
}

class Plot {
  constructor(element) {
    this.element = element;
    this.canvas = element.querySelector('.canvas');
    this.numbers = element.querySelector('.numbers');
    this.details = element.querySelector('details.data');
    this.figure = JSON.parse(element.querySelector('script').textContent);
    this.frame = 0;
    const choice = this.figure.choice;
    if (choice) {
      this.frame = choice.first;
      const names = this.figure.frames.map((f) => f.frame);
      const control = choice.by === 'slider' ? slider : menu;
      if (names.length > 1) {
        element.querySelector('.controls').append(control(
          choice.label, names, this.frame, (i) => this.show(i)).element);
      }
    }
    this.details.addEventListener('toggle', () => this.fill());
  }

  get shown() {
    const {frames, ...shared} = this.figure;
    return frames ? {...shared, ...frames[this.frame]} : shared;
  }

  show(frame) {
    this.frame = frame;
    this.draw();
    this.fill();
  }

  // `fixed` is a width in pixels; without it the plot follows its place.
  draw(width = this.canvas.clientWidth, fixed = undefined) {
    const shown = this.shown;
    if (shown.choice) {
      // What a reader of the paper cannot choose.
      this.element.querySelector('h3').dataset.shown =
        `${shown.choice.label} ${shown.frame}`;
    }
    const narrow = width < NARROW;
    // Plotly leaves a colour bar behind that changes its direction.
    if (this.narrow !== undefined && narrow !== this.narrow) {
      Plotly.purge(this.canvas);
    }
    this.narrow = narrow;
    const [traces, plan] = KINDS[shown.kind].draw(shown, width);
    plan.width = fixed;
    return Plotly.react(this.canvas, traces, plan, CONFIG);
  }

  fill() {
    const shown = this.shown;
    if (this.details.open) fillTable(this.numbers, KINDS[shown.kind].table(shown));
  }
}

let plots = [];
const waiting = [];

function redraw() {
  plots = plots.filter((plot) => plot.canvas.isConnected);
  for (const plot of plots) plot.draw();
}

// Fills the figures and widgets of a section: at once in a page that is loaded,
// else when `drawWaiting` is called at its end.
function fillSection(section) {
  for (const element of section.querySelectorAll('figure.plot')) {
    waiting.push(new Plot(element));
  }
  for (const element of section.querySelectorAll('.widget')) {
    const value = JSON.parse(element.querySelector('script').textContent);
    WIDGETS[element.dataset.widget](element, value);
  }
  if (document.readyState !== 'loading') {
    while (waiting.length) drawNext();
  }
}

function drawNext() {
  const plot = waiting.shift();
  plots.push(plot);
  plot.draw();
}

// One after the other, so that the page can be read meanwhile. `data-drawn` of
// the root says that all are there.
function drawWaiting() {
  if (waiting.length) {
    drawNext();
    setTimeout(drawWaiting, 0);
  } else {
    document.documentElement.dataset.drawn = String(plots.length);
  }
}

function startPlots() {
  drawWaiting();
  let narrow = window.innerWidth < NARROW;
  window.addEventListener('resize', () => {
    if (narrow === window.innerWidth < NARROW) return;
    narrow = !narrow;
    redraw();
  });
}
