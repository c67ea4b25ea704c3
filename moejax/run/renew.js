// Renews the parts of a page that the files of a run have changed.
//
// Every other second it asks for the times of the files. If they differ, it
// fetches the page's parts and replaces those that are other ones. What the
// reader has chosen stays: the place on the page, the focus, menus, sliders,
// opened tables, and of plots their zoom and the curves that are hidden. It
// uses `plots` and `fillSection` of the page's own scripts.
'use strict';
(() => {
  const LEAST_MS = 2000;
  // A renewal takes at most a tenth of the time: a run may train on this
  // machine.
  const TIMES_LONGER = 10;
  const FOCUSABLE = 'a, button, input, select, summary, [tabindex]';

  const note = document.getElementById('renewal');
  const state = JSON.parse(
    document.getElementById('renewal-state').textContent
  );
  // `parts` has the digest of each part, by the selector of its element.
  let { changes, parts } = state;
  let at = new Date();

  class NoAnswer extends Error {}

  async function get(path) {
    let response;
    try {
      response = await fetch(path, { cache: 'no-store' });
    } catch {
      throw new NoAnswer('moejax.cli.watch does not answer; trying again');
    }
    const text = await response.text();
    if (!response.ok) throw new NoAnswer(`trying again: ${text}`);
    return text;
  }

  const all = (element, selector) => [...element.querySelectorAll(selector)];
  const plotsIn = (element) => plots.filter((p) => element.contains(p.element));
  const axes = (plot) =>
    Object.entries(plot.canvas._fullLayout || {}).filter(([name]) =>
      /^[xy]axis\d*$/.test(name)
    );

  // What the reader has changed in a part. Elements of one kind are told apart
  // by their order.
  function choices(element) {
    const focusable = all(element, FOCUSABLE);
    return {
      menus: all(element, '.widget select').map(
        (menu) => menu.selectedOptions[0]?.textContent
      ),
      open: all(element, 'details').map((details) => details.open),
      scrolled: all(element, '.scroll').map((region) => [
        region.scrollLeft,
        region.scrollTop,
      ]),
      focused: focusable.indexOf(document.activeElement),
      plots: new Map(
        plotsIn(element).map((plot) => [plot.element.id, viewed(plot)])
      ),
    };
  }

  // Frame, zoom and hidden curves of a plot.
  function viewed(plot) {
    const { choice, frames } = plot.figure;
    const moved = choice && plot.frame !== choice.first;
    const zoom = {};
    for (const [name, axis] of axes(plot)) {
      // A range is the reader's if it is not the one of the figure.
      const [low, high] = axis.range;
      const own = axis._rangeInitial0 === low && axis._rangeInitial1 === high;
      if (axis.autorange === false && !own) zoom[`${name}.range`] = [low, high];
    }
    const hidden = (plot.canvas.data || [])
      .filter((trace) => trace.visible === 'legendonly')
      .map((trace) => trace.name);
    return { frame: moved ? frames[plot.frame].frame : null, zoom, hidden };
  }

  function choose(control, value, event) {
    control.value = value;
    control.dispatchEvent(new Event(event, { bubbles: true }));
  }

  function chooseAgain(element, old) {
    // Anew for each: a menu may replace the menus after it.
    old.menus.forEach((name, number) => {
      const menu = all(element, '.widget select')[number];
      const index = [...(menu?.options || [])].findIndex(
        (option) => option.textContent === name
      );
      if (index > 0) choose(menu, menu.options[index].value, 'change');
    });
    all(element, 'details').forEach((details, number) => {
      details.open = details.open || Boolean(old.open[number]);
    });
    all(element, '.scroll').forEach((region, number) => {
      [region.scrollLeft, region.scrollTop] = old.scrolled[number] || [0, 0];
    });
    if (old.focused >= 0) {
      all(element, FOCUSABLE)[old.focused]?.focus({ preventScroll: true });
    }
  }

  async function viewAgain(plot, old) {
    const frames = plot.figure.frames || [];
    const index = frames.findIndex(({ frame }) => frame === old.frame);
    const control = plot.element.querySelector('.controls select, input');
    if (old.frame !== null && index >= 0 && control) {
      choose(control, index, control.localName === 'select' ? 'change' : 'input');
    }
    const hidden = plot.canvas.data
      .map((trace, number) => (old.hidden.includes(trace.name) ? number : -1))
      .filter((number) => number >= 0);
    if (hidden.length) {
      await Plotly.restyle(plot.canvas, { visible: 'legendonly' }, hidden);
    }
    if (Object.keys(old.zoom).length) {
      await Plotly.relayout(plot.canvas, old.zoom);
    }
  }

  function made(html) {
    const template = document.createElement('template');
    template.innerHTML = html;
    return template.content.firstElementChild;
  }

  async function fill(element, old) {
    if (element.localName !== 'section') return;
    fillSection(element);
    if (!old) return;
    for (const plot of plotsIn(element)) {
      const view = old.plots.get(plot.element.id);
      if (view) await viewAgain(plot, view);
    }
    chooseAgain(element, old);
  }

  function forget(element) {
    for (const plot of plotsIn(element)) Plotly.purge(plot.canvas);
    plots = plots.filter((plot) => !element.contains(plot.element));
  }

  async function replace(selector, html, before) {
    const fresh = made(html);
    const element = document.querySelector(selector);
    if (element === null) {
      // A section that shows what was not there before.
      if (before?.localName === 'section') before.after(fresh);
      else document.querySelector('main').prepend(fresh);
      await fill(fresh, null);
      return;
    }
    const old = choices(element);
    // So that the page below does not jump while plots are drawn.
    fresh.style.minHeight = `${element.offsetHeight}px`;
    forget(element);
    element.replaceWith(fresh);
    await fill(fresh, old);
    fresh.style.minHeight = '';
  }

  // The first part on the screen, and how far from the top it is.
  function reading() {
    for (const selector of Object.keys(parts)) {
      const element = document.querySelector(selector);
      if (!element) continue;
      const { top, bottom } = element.getBoundingClientRect();
      if (selector.startsWith('section') && bottom > 0) return { selector, top };
    }
    return null;
  }

  async function renew() {
    const now = await get('changes.json');
    if (now === changes) return;
    const fresh = JSON.parse(await get('parts.json'));
    const place = window.scrollY > 0 ? reading() : null;
    let before = null;
    for (const [selector, { digest, html }] of Object.entries(fresh)) {
      if (digest !== parts[selector]) await replace(selector, html, before);
      before = document.querySelector(selector);
    }
    for (const selector of Object.keys(parts)) {
      if (selector in fresh) continue;
      forget(document.querySelector(selector));
      document.querySelector(selector).remove();
    }
    parts = Object.fromEntries(
      Object.entries(fresh).map(([selector, { digest }]) => [selector, digest])
    );
    changes = now;
    at = new Date();
    document.documentElement.dataset.drawn = String(plots.length);
    const element = place && document.querySelector(place.selector);
    if (element) {
      const { top } = element.getBoundingClientRect();
      window.scrollBy({ top: top - place.top, behavior: 'instant' });
    }
  }

  // The status is read aloud when the page has lost its server, and not at
  // each renewal.
  function say(text, trouble = false) {
    note.setAttribute('aria-live', trouble ? 'polite' : 'off');
    note.textContent = text;
  }

  async function again() {
    const begin = performance.now();
    if (!document.hidden) {
      try {
        await renew();
        say(`live, renewed at ${at.toLocaleTimeString()}`);
      } catch (error) {
        if (!(error instanceof NoAnswer)) console.error(error);
        say(error.message, true);
      }
    }
    const took = performance.now() - begin;
    setTimeout(again, Math.max(LEAST_MS, TIMES_LONGER * took));
  }

  say(`live, renewed at ${at.toLocaleTimeString()}`);
  setTimeout(again, LEAST_MS);
})();
