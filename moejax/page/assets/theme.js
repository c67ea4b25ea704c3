// The theme, the state of the page while it is printed, and its start.
'use strict';

const root = document.documentElement;
const KEY = 'moejax-theme';
const system = matchMedia('(prefers-color-scheme: dark)');
let own = null; // the theme that the reader chose with the button

// A page that is opened from a file may have no storage.
function storage(action) {
  try {
    return action(localStorage);
  } catch {
    return null;
  }
}

function startTheme() {
  const button = document.getElementById('theme');
  own = storage((s) => s.getItem(KEY));
  const show = () => {
    root.dataset.theme = own || (system.matches ? 'dark' : 'light');
    const dark = root.dataset.theme === 'dark';
    button.textContent = dark ? 'Light colours' : 'Dark colours';
    redraw();
  };
  button.addEventListener('click', () => {
    own = root.dataset.theme === 'dark' ? 'light' : 'dark';
    storage((s) => s.setItem(KEY, own));
    show();
  });
  system.addEventListener('change', show);
  show();
}

// On paper: light colours, and figures as wide as the sheet.
function startPrinting() {
  const PAPER = 680; // pixels of CSS
  let before;
  window.addEventListener('beforeprint', () => {
    before = root.dataset.theme;
    root.dataset.theme = 'light';
    for (const plot of plots) plot.draw(PAPER, PAPER);
  });
  window.addEventListener('afterprint', () => {
    root.dataset.theme = before;
    redraw();
  });
}

startTheme();
startPlots();
startPrinting();
