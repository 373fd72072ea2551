// Elements, numbers for people, and answers of the control plane. Text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `props` are attributes, but for `text`, `class` and `on…` handlers. */
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same within a drawing. */
export function s(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Sets a text, unless it is there already: what does not change does not flicker and is not read out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute, unless it is there already. */
export function mark(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes the children of `parent` those of `items`, by key: what stays keeps its element, and with it the focus. */
export function keyed(parent, items, key, make, update) {
  const known = parent.known ?? (parent.known = new Map());
  const wanted = new Set(items.map(key));
  for (const [name, element] of known) {
    if (!wanted.has(name)) {
      element.remove();
      known.delete(name);
    }
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    let element = known.get(key(item));
    if (!element) {
      element = make(item);
      known.set(key(item), element);
    }
    element.item = item;
    update?.(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

const SHAPES = {
  // Each state has a shape of its own, so that none is told by its colour alone.
  good: ["M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1Z", "m4.8 8.2 2.3 2.3 4.2-4.6"],
  warn: ["M8 1.5 15.3 14.5H.7Z", "M8 6v4M8 11.6v1"],
  bad: ["M5 1h6l4 4v6l-4 4H5l-4-4V5Z", "m5.4 5.4 5.2 5.2M10.600 5.400 5.4 10.6"],
  calm: ["M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z", "M5 8h6"],
  locked: ["M2.500 7h11v7.500h-11Z", "M5 7V4.500a3 3 0 0 1 6 0V7"],
  open: ["M2.500 7h11v7.500h-11Z", "M5 7V4.500a3 3 0 0 1 5.800-1.200"],
  pause: ["", "M5.500 3v10M10.500 3v10"],
  sun: ["M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6Z", "M8 .8v1.800M8 13.400v1.800M.8 8h1.800M13.400 8h1.800M2.900 2.900l1.300 1.300M11.800 11.800l1.300 1.300M2.900 13.100l1.300-1.300M11.800 4.200l1.300-1.300"],
  moon: ["", "M13.500 9.600A6 6 0 0 1 6.400 2.500a6 6 0 1 0 7.100 7.100Z"],
  auto: ["M8 2v12A6 6 0 0 0 8 2Z", "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z"],
};
const FILLED = new Set(["locked", "auto", "sun"]);

/** A small picture beside a text that says the same. */
export function icon(name, size = 15) {
  const [body, lines] = SHAPES[name];
  const body_fill = FILLED.has(name) ? "currentColor" : "none";
  return s("svg", { viewBox: "0 0 16 16", width: size, height: size, "aria-hidden": "true" },
    s("path", { d: body, fill: body_fill, stroke: "currentColor", "stroke-width": 1.5, "stroke-linejoin": "round" }),
    s("path", { d: lines, fill: "none", stroke: "currentColor", "stroke-width": 1.7, "stroke-linecap": "round", "stroke-linejoin": "round" }));
}

/** A state: shape, colour and word. */
export function state(tone, text) {
  return h("span", { class: `state ${tone}` }, icon(tone), h("span", { text }));
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

export const count = (number) => whole.format(number);
export const some = (number) => (number ? whole.format(number) : "–");
export const plural = (number, one, many = `${one}s`) => `${whole.format(number)} ${number === 1 ? one : many}`;

/** Calls a second; rare ones a minute. */
export function rate(number) {
  if (!number) return "0/s";
  if (number < 0.95) return `${tenth.format(number * 60)}/min`;
  return `${(number < 100 ? tenth : whole).format(number)}/s`;
}

export function latency(us) {
  if (!us) return "–";
  if (us < 1000) return `${whole.format(us)} µs`;
  if (us < 1e6) return `${(us < 1e5 ? tenth : whole).format(us / 1e3)} ms`;
  return `${tenth.format(us / 1e6)} s`;
}

/** A share of one; never 100 % when something is missing. */
export function share(part) {
  if (part === null || part === undefined) return "–";
  const percent = part * 100;
  if (percent === 100) return "100 %";
  return `${(Math.floor(percent * 10) / 10).toFixed(1)} %`;
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${(unit && number < 100 ? tenth : whole).format(number)} ${units[unit]}`;
}

/** How long, in the two largest units. */
export function span(ms) {
  const seconds = Math.floor(Math.abs(ms) / 1000);
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = parts.findIndex(([size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [size, unit] = parts[at];
  const next = parts[at + 1];
  const more = next && size > 60 ? Math.floor((seconds % size) / next[0]) : 0;
  return `${Math.floor(seconds / size)} ${unit}${more ? ` ${more} ${next[1]}` : ""}`;
}

export const clock = (ms) => (ms ? new Date(ms).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) : "–");
export const time = (ms) => (ms ? new Date(ms).toLocaleTimeString("en-GB") : "–");

/** An identity as people call it; the whole stands in a title. */
export function short(identity) {
  const found = /^spiffe:\/\/[^/]+\/ns\/([^/]+)\/sa\/([^/]+)$/.exec(identity);
  return found ? `${found[1]}/${found[2]}` : identity || "–";
}

/** What the control plane said instead of an answer. */
export class Trouble extends Error {
  constructor(status, message, next) {
    super(message);
    this.status = status;
    this.next = next;
  }
}

/** How far the control plane's clock is ahead of this machine's. */
let ahead = 0;
export const now = () => Date.now() + ahead;

const cache = new Map();

/** Asks; `fresh` says whether the answer is another than the last one. */
export async function ask(name, fields = {}) {
  const pairs = Object.entries(fields).filter(([, value]) => value !== "" && value !== undefined);
  const query = new URLSearchParams(pairs).toString();
  const place = `api/${name}${query ? `?${query}` : ""}`;
  const known = cache.get(place);
  let response;
  try {
    response = await fetch(place, {
      headers: known ? { "if-none-match": known.tag } : {},
      cache: "no-store",
      signal: AbortSignal.timeout(15000),
    });
  } catch {
    throw new Trouble(0, "meshctl dashboard does not answer any more. Start it again in the terminal.", "meshctl dashboard");
  }
  const server = Number(response.headers.get("x-mesh-now"));
  if (server) ahead = server - Date.now();
  if (response.status === 304 && known) return { value: known.value, fresh: false };
  const is_json = (response.headers.get("content-type") ?? "").startsWith("application/json");
  if (!response.ok) {
    const told = is_json ? await response.json() : { error: await response.text(), next: "" };
    throw new Trouble(response.status, told.error || `The answer was ${response.status}.`, told.next);
  }
  const value = await response.json();
  if (cache.size > 40) cache.clear();
  cache.set(place, { tag: response.headers.get("etag") ?? "", value });
  return { value, fresh: true };
}
