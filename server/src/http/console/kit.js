// What the page is made with: elements, trees that are brought up to date in place, and how values are written.
// Whatever a server tells is put in as text or as an attribute's value, never as markup.

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
};

export const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const keyOf = (node) => node.dataset?.key;

// Makes a tree like another one, touching only what differs: focus, scrolling, and what is opened or selected stay.
export const patch = (live, wanted) => {
  // Whether a part is open is for whoever reads.
  const ours = ({ name }) => name !== "open";
  for (const { name } of [...live.attributes].filter(ours)) if (!wanted.hasAttribute(name)) live.removeAttribute(name);
  for (const { name, value } of [...wanted.attributes].filter(ours)) {
    if (live.getAttribute(name) !== value) live.setAttribute(name, value);
  }
  // What is drawn to the width that it has.
  if (!live.classList.contains("chart")) patchChildren(live, [...wanted.childNodes]);
};

export const patchChildren = (live, wanted) => {
  const keys = new Set(wanted.map(keyOf));
  for (const child of [...live.children]) if (keyOf(child) && !keys.has(keyOf(child))) child.remove();
  const keyed = new Map([...live.children].map((child) => [keyOf(child), child]));
  let place = live.firstChild;
  for (const want of wanted) {
    const found = keyOf(want) ? keyed.get(keyOf(want)) : place;
    if (found?.nodeName !== want.nodeName || keyOf(found) !== keyOf(want)) {
      live.insertBefore(want, place);
      continue;
    }
    if (found === place) place = place.nextSibling;
    else live.insertBefore(found, place);
    if (found.nodeType === Node.ELEMENT_NODE) patch(found, want);
    else if (found.data !== want.data) found.data = want.data;
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
};

// What may be missing, or be told in another way by a server of another version.
export const objects = (value) => (Array.isArray(value) ? value.filter((each) => each && typeof each === "object") : []);

export const NONE = "–";
export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const or = (write) => (value) => (isNumber(value) ? write(value).replace(/^-/, "−") : NONE);

export const count = or((value) => value.toLocaleString("en-US", { maximumFractionDigits: 0 }));

export const counted = (value, what) => `${count(value)} ${what}${value === 1 ? "" : "s"}`;

export const number = or((value) => {
  const size = Math.abs(value);
  // Nothing that is told is as small, but for rounding.
  if (size < 1e-9) return "0";
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(1).replace(".0e", "e");
  return value.toLocaleString("en-US", size >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 });
});

export const percent = or((value) => {
  const hundreds = value * 100;
  const size = Math.abs(hundreds);
  const digits = Number.isInteger(hundreds) || size >= 100 ? 0 : size > 99 || size < 0.1 ? 2 : 1;
  const text = hundreds.toFixed(digits);
  return `${Number(text) === 0 ? "0" : text} %`;
});

export const seconds = or((value) => {
  if (value >= 1) return `${number(value)} s`;
  return value >= 1e-3 ? `${number(value * 1e3)} ms` : `${number(value * 1e6)} µs`;
});

export const span = or((value) => {
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [size, unit] = units.find(([least]) => value >= 2 * least) ?? [1, "s"];
  return `${Math.round(value / size)} ${unit}`;
});

const two = (value) => String(value).padStart(2, "0");
const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;
const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
export const moment = (unix) => `${day(new Date(unix * 1000))} ${clock(new Date(unix * 1000))}`;

// A time, by its distance; the full one is in its title.
export const when = (unix, now = Date.now() / 1000) => {
  if (!isNumber(unix)) return make("span", {}, NONE);
  const at = new Date(unix * 1000);
  const text = now - unix < 2 ? "just now" : `${span(now - unix)} ago`;
  return make("time", { datetime: at.toISOString(), title: `${moment(unix)}:${two(at.getSeconds())}` }, text);
};

export const table = (label, head, rows, attributes = {}) =>
  make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label },
    make("table", attributes,
      head && make("thead", {}, make("tr", {}, head.map((text) => make("th", { scope: "col", class: text.startsWith("#") && "num" }, text.replace("#", ""))))),
      make("tbody", {}, rows)));

// A row: its first cell names it; "#" before a column's name makes its cells numbers.
export const row = (name, ...cells) => make("tr", {}, make("th", { scope: "row" }, name), cells);
export const num = (text, attributes = {}) => make("td", { ...attributes, class: `num ${attributes.class ?? ""}`.trim() }, text);
export const cell = (...children) => make("td", {}, children);
