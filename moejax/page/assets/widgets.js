// What a reader browses: text coloured by its experts, tokens of an expert.
'use strict';

// Whole numbers from base64 of little-endian uint16; 65535 stands for -1.
function whole(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return Array.from(new Uint16Array(bytes.buffer), (v) => (v === 65535 ? -1 : v));
}

// Neighbouring numbers get hues far from each other.
const hue = (expert) => (expert * 137.508) % 360;
const tint = (expert) =>
  `hsl(${hue(expert)} var(--token-sat) var(--token-light))`;

const WIDGETS = {
  // value: layers, k, texts[T], documents [{name, begin, end}], pictures [begin,
  // end, columns], experts and weights [T, layers, k] as base64, unit (of a
  // weight), entropy [T, layers].
  text(element, value) {
    const num = value.layers.length;
    const experts = whole(value.experts);
    const weights = whole(value.weights);
    const entropy = value.entropy ? whole(value.entropy) : null;
    const at = (token, layer, rank) => (token * num + layer) * value.k + rank;
    const state = {layer: 0, rank: 0, document: 0, expert: -1};
    const controls = element.querySelector('.controls');
    const body = element.querySelector('.body');
    const readout = make('p', {class: 'readout', 'aria-live': 'polite'});
    const legend = make('div', {
      class: 'chips', role: 'group', 'aria-label': 'Experts in this view',
    });
    const spans = [];
    const boxes = [];
    const pictures = new Map(value.pictures.map((p) => [p[0], p]));

    function describe(token) {
      const ranks = [];
      for (let r = 0; r < value.k; r++) {
        const i = at(token, state.layer, r);
        if (experts[i] < 0) continue;
        ranks.push(`${experts[i]} (${(weights[i] * value.unit).toFixed(3)})`);
      }
      const certainty = entropy === null ? ''
        : ` Entropy ${(entropy[token * num + state.layer] / 1000).toFixed(2)} nats.`;
      readout.textContent = `Token ${JSON.stringify(value.texts[token])}, layer `
        + `${value.layers[state.layer]}: expert (gate weight) `
        + `${ranks.join(', ') || 'none'}.${certainty}`;
      for (const span of body.querySelectorAll('.current')) {
        span.classList.remove('current');
      }
      spans[token].classList.add('current');
    }

    function paint() {
      const counts = new Map();
      const {begin, end} = value.documents[state.document];
      boxes.forEach((box, i) => { box.hidden = i !== state.document; });
      spans.slice(begin, end).forEach((span, i) => {
        const token = begin + i;
        const expert = experts[at(token, state.layer, state.rank)];
        if (expert >= 0) counts.set(expert, (counts.get(expert) || 0) + 1);
        span.style.background = expert < 0 ? 'none' : tint(expert);
        span.classList.toggle('dim', state.expert >= 0 && expert !== state.expert);
      });
      const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 16);
      if (state.expert >= 0 && !most.some(([e]) => e === state.expert)) {
        most.push([state.expert, counts.get(state.expert) || 0]);
      }
      legend.replaceChildren(...most.map(([expert, count]) => {
        const swatch = make('i');
        swatch.style.background = tint(expert);
        const share = (100 * count / (end - begin)).toFixed(0);
        const button = make('button', {
          type: 'button', 'aria-pressed': String(expert === state.expert),
        }, swatch, `${expert}: ${share}%`);
        button.addEventListener('click', () => {
          state.expert = expert === state.expert ? -1 : expert;
          paint();
          legend.querySelector('[aria-pressed="true"]')?.focus();
        });
        return button;
      }));
    }

    const change = (key) => (i) => {
      state[key] = i;
      state.expert = -1;
      paint();
    };
    controls.append(
      menu('Document', value.documents.map((d) => d.name), 0,
        change('document')).element,
      menu('Layer', value.layers.map(String), 0, change('layer')).element,
      menu('Rank', [...Array(value.k).keys()].map((r) => String(r + 1)), 0,
        change('rank')).element,
    );
    readout.textContent = 'Point at a token, or move with the arrow keys.';
    body.append(readout, legend);
    for (const {name, begin, end} of value.documents) {
      const box = make('p', {
        class: 'tokens', tabindex: 0, role: 'group',
        'aria-label': `${name}; arrow keys move from token to token`,
      });
      const add = (token, place, shown) => {
        const span = make('span', {}, shown);
        span.dataset.token = token;
        spans[token] = span;
        place.append(span);
      };
      for (let token = begin; token < end; token++) {
        const picture = pictures.get(token);
        if (picture === undefined) {
          add(token, box, value.texts[token].replace(/\n/g, '↵\n'));
          continue;
        }
        const [, behind, columns] = picture;
        const grid = make('b', {class: 'patches'});
        grid.style.gridTemplateColumns = `repeat(${columns}, 1.2em)`;
        for (; token < behind; token++) add(token, grid, '');
        token--;
        box.append(grid);
      }
      let current = begin - 1;
      box.addEventListener('pointerover', (event) => {
        const token = event.target.dataset.token;
        if (token === undefined) return;
        current = Number(token);
        describe(current);
      });
      box.addEventListener('keydown', (event) => {
        const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
        if (!by) return;
        event.preventDefault();
        current = Math.min(end - 1, Math.max(begin, current + by));
        describe(current);
      });
      boxes.push(box);
      body.append(box);
    }
    paint();
  },

  // value: layers, head, tables[layer][expert] = rows of cells.
  vocabulary(element, value) {
    const controls = element.querySelector('.controls');
    const body = element.querySelector('.body');
    const state = {layer: 0, expert: 0};
    const place = make('div', {
      class: 'scroll', tabindex: 0, role: 'region', 'aria-live': 'polite',
      'aria-label': 'Tokens of the expert',
    });
    const experts = () => Object.keys(value.tables[state.layer]);
    let choice = null;
    function fill() {
      const rows = value.tables[state.layer][experts()[state.expert]] || [];
      fillTable(place, {
        head: value.head,
        rows: rows.map(([token, ...rest]) => [
          JSON.stringify(token), ...rest.map(number)]),
      });
      if (!rows.length) {
        place.replaceChildren(make('p', {}, 'No token is chosen far above its rate.'));
      }
    }
    function choices() {
      const made = menu('Expert', experts(), 0, (i) => {
        state.expert = i;
        fill();
      });
      state.expert = 0;
      if (choice) choice.element.replaceWith(made.element);
      choice = made;
      return made.element;
    }
    const step = (by) => () => {
      const last = experts().length;
      state.expert = (state.expert + by + last) % last;
      choice.select.value = state.expert;
      fill();
    };
    const previous = make('button', {type: 'button'}, 'Previous');
    const next = make('button', {type: 'button'}, 'Next');
    previous.addEventListener('click', step(-1));
    next.addEventListener('click', step(1));
    controls.append(
      menu('Layer', value.layers.map(String), 0, (i) => {
        state.layer = i;
        choices();
        fill();
      }).element,
      choices(), previous, next,
    );
    body.append(place);
    fill();
  },
};
