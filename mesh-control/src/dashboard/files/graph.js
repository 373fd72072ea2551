// The service graph: a drawing that one can walk through with the arrow keys, and the same as a table below.

import { count, h, icon, keyed, latency, mark, plural, rate, s, say, share, short } from "./dom.js";
import { along, layout, pieces } from "./layout.js";

/** Beyond so many calls their figures are shown for what has the focus or is ill. */
const DENSE = 45;
/** Two sizes of boxes. */
const ROOMY = { width: 176, height: 54, across: 214, down: 30 };
const NARROW = { width: 166, height: 36, across: 150, down: 12 };
const EDGE_OF_DRAWING = 26;

/** What a call's line and label say. */
export function judged(edge) {
  const { figures } = edge;
  const wrong = figures.failed + figures.errors;
  const refused = figures.denied + figures.limited;
  const is_open = edge.lock === "plaintext" || edge.lock === "mixed";
  const idle = figures.requests === 0;
  const share_wrong = figures.allowed + figures.failed ? wrong / (figures.allowed + figures.failed) : 0;
  let tone = "calm";
  if (refused) tone = "warn";
  if (wrong) tone = share_wrong >= 0.01 ? "bad" : "warn";
  if (is_open || edge.alarms.length) tone = "bad";
  return { tone, idle, is_open, wrong, refused, share_wrong };
}

export const lock_words = {
  mutual: "mutual TLS",
  plaintext: "plaintext",
  mixed: "partly plaintext",
  none: "not reached yet",
};

/** One sentence for those who hear the graph. */
export function sentence(edge) {
  const { figures } = edge;
  const { idle, wrong, refused } = judged(edge);
  const head = `${short(edge.from)} calls ${short(edge.to)}, ${lock_words[edge.lock]}`;
  if (idle) return `${head}, no calls in this span`;
  const parts = [head, `${rate(figures.rate).replace("/s", " a second").replace("/min", " a minute")}`];
  if (figures.p95_us) parts.push(`95 % within ${latency(figures.p95_us)}`);
  if (wrong) parts.push(`${plural(wrong, "error")}`);
  if (refused) parts.push(`${count(refused)} refused`);
  if (edge.alarms.length) parts.push(plural(edge.alarms.length, "alarm"));
  return parts.join(", ");
}

function node_tone(node) {
  if (node.alarms.length) return "bad";
  if (node.kind === "unmeshed") return "warn";
  if (node.proxies && node.in_sync < node.proxies) return "warn";
  return node.proxies ? "good" : "calm";
}

function node_sub(node) {
  if (node.alarms.length) return plural(node.alarms.length, "alarm");
  if (node.kind === "unmeshed") return "without an identity";
  if (node.kind === "others") return "no room to tell apart";
  const where = node.namespace || "";
  if (!node.proxies) return `${where}${where ? " · " : ""}no proxy connected`;
  const sync = node.in_sync === node.proxies ? plural(node.proxies, "proxy", "proxies") : `${node.in_sync} of ${node.proxies} in sync`;
  return `${where}${where ? " · " : ""}${sync}`;
}

/** The graph in a box; `choose(kind, item)` is told what was clicked. */
export function make_graph(choose) {
  const edges_layer = s("g");
  const pills_layer = s("g");
  const nodes_layer = s("g");
  const drawing = s("svg", { role: "group", "aria-roledescription": "service graph" }, edges_layer, nodes_layer, pills_layer);
  const canvas = h("div", { class: "canvas" }, drawing);
  const zoom = h("div", { class: "zoom", role: "group", "aria-label": "Size of the graph" },
    h("button", { class: "plain", type: "button", "aria-label": "Smaller", text: "−", onclick: () => scale_by(1 / 1.25) }),
    h("button", { class: "plain", type: "button", "aria-label": "All of it", text: "Fit", onclick: () => fit(true) }),
    h("button", { class: "plain", type: "button", "aria-label": "Larger", text: "+", onclick: () => scale_by(1.25) }));
  const box = h("div", { class: "graph" }, canvas, h("div", { class: "foot" }, legend(), zoom));
  const state = { shape: "", scale: 1, by_hand: false, size: ROOMY, places: null, lines: null, width: 1, height: 1, items: new Map(), stop: null, data: null };

  function show(data, chosen) {
    state.data = data;
    const shape = [data.nodes.map((node) => node.id).join("\n"), data.edges.map((edge) => edge.id).join("\n")].join("\n\n");
    if (shape !== state.shape) {
      state.shape = shape;
      const is_dense = data.edges.length > DENSE;
      state.size = is_dense ? NARROW : ROOMY;
      drawing.classList.toggle("dense", is_dense);
      Object.assign(state, layout(data.nodes, data.edges, state.size));
      state.fresh = true;
    }
    state.items = new Map([...data.nodes.map((node) => [`n:${node.id}`, node]), ...data.edges.map((edge) => [`e:${edge.id}`, edge])]);
    keyed(edges_layer, data.edges, (edge) => edge.id, make_edge, (element, edge) => update_edge(element, edge, chosen));
    keyed(nodes_layer, data.nodes, (node) => node.id, make_node, (element, node) => update_node(element, node, chosen));
    if (state.fresh) {
      place_pills();
      state.fresh = false;
      if (!state.by_hand) fit(false);
      else resize();
    }
    if (!state.items.has(state.stop)) set_stop(first_stop());
    fade(chosen);
    mark(drawing, "aria-label", `${plural(data.nodes.length, "service")}, ${plural(data.edges.length, "connection")}. Arrow keys lead along the calls, Enter shows details. The same stands in the table below.`);
    return box;
  }

  /** What has nothing to do with what is chosen steps back. */
  function fade(chosen) {
    const near = new Set();
    for (const edge of chosen ? state.data.edges : []) {
      if (chosen !== `e:${edge.id}` && chosen !== `n:${edge.from}` && chosen !== `n:${edge.to}`) continue;
      for (const key of [`e:${edge.id}`, `n:${edge.from}`, `n:${edge.to}`]) near.add(key);
    }
    drawing.classList.toggle("faded", near.size > 0);
    for (const element of [...edges_layer.children, ...nodes_layer.children]) {
      const is_near = near.has(element.dataset.key);
      element.classList.toggle("near", is_near);
      element.label?.classList.toggle("near", is_near);
    }
  }

  // Boxes.

  function make_node(node) {
    const element = s("g", { tabindex: "-1", role: "button", "data-key": `n:${node.id}` },
      s("rect", { class: "box" }), s("g", { class: "mark" }), s("text", { class: "name" }), s("text", { class: "sub" }), s("title"));
    element.addEventListener("click", () => choose("node", element.item));
    return element;
  }

  function update_node(element, node, chosen) {
    const [rect, sign, name, sub, title] = element.children;
    const tone = node_tone(node);
    const { width, height } = state.size;
    const is_narrow = height < 50;
    if (state.fresh) {
      const { x, y } = state.places.get(node.id);
      mark(element, "transform", `translate(${x} ${y})`);
      for (const [key, value] of [["width", width], ["height", height], ["rx", node.kind === "service" ? 9 : height / 2]]) mark(rect, key, value);
      mark(sign, "transform", `translate(13 ${height / 2 - 8})`);
      mark(name, "x", 38);
      mark(name, "y", is_narrow ? height / 2 + 4.5 : 23);
      mark(sub, "x", 38);
      mark(sub, "y", 40);
    }
    if (element.tone !== tone) {
      element.tone = tone;
      sign.replaceChildren(icon(tone, 16));
    }
    mark(element, "class", `node ${node.kind} ${tone}${chosen === `n:${node.id}` ? " chosen" : ""}`);
    say(name, cut(node.name, is_narrow ? 17 : 18));
    say(sub, is_narrow ? "" : cut(node_sub(node), 24));
    say(title, `${node.namespace ? `${node.namespace}/` : ""}${node.name}: ${node_sub(node)}`);
    mark(element, "aria-label", `${node.kind === "workload" ? "caller" : node.kind} ${node.namespace ? `${node.namespace}/` : ""}${node.name}, ${node_sub(node)}`);
  }

  // Lines with their labels.

  function make_edge(edge) {
    const pill = s("g", { class: "pill" }, s("rect", { rx: 11, height: 22 }), s("g", { class: "sign" }), s("text", {}, s("tspan"), s("tspan", { class: "told" })));
    const element = s("g", { tabindex: "-1", role: "button", "data-key": `e:${edge.id}` },
      s("path", { class: "hit" }), s("path", { class: "line" }), s("path", { class: "head" }));
    // Labels lie above all lines, and belong to theirs.
    element.label = s("g", { "aria-hidden": "true" }, pill);
    pills_layer.append(element.label);
    for (const part of [element, element.label]) {
      part.addEventListener("click", () => choose("edge", element.item));
      part.addEventListener("pointerenter", () => warm(element, true));
      part.addEventListener("pointerleave", () => warm(element, false));
    }
    element.addEventListener("focus", () => warm(element, true));
    element.addEventListener("blur", () => warm(element, false));
    element.remove = () => {
      element.label.remove();
      Element.prototype.remove.call(element);
    };
    return element;
  }

  /** A line and its label look alike. */
  function warm(element, is_hot) {
    element.hot = is_hot;
    for (const part of [element, element.label]) part.classList.toggle("hot", is_hot);
    if (is_hot) pills_layer.append(element.label);
  }

  function update_edge(element, edge, chosen) {
    const [hit, path, head] = element.children;
    const pill = element.label.firstElementChild;
    const { tone, idle, is_open, wrong, refused, share_wrong } = judged(edge);
    if (state.fresh) {
      const parts = pieces(state.lines.get(edge.id));
      const d = parts.map(([a, b, c, e], at) => `${at ? "" : `M${a}`}C${b} ${c} ${e}`).join("");
      mark(hit, "d", d);
      mark(path, "d", d);
      const last = parts[parts.length - 1];
      const [x, y] = last[3];
      const [px, py] = along(last, 0.94);
      const turn = (Math.atan2(y - py, x - px) * 180) / Math.PI;
      mark(head, "d", "M0 0L-10 -4.5L-10 4.5Z");
      mark(head, "transform", `translate(${x} ${y}) rotate(${turn})`);
      element.parts = parts;
    }
    const width = idle ? 1.5 : Math.min(4.5, 1.4 + Math.log10(1 + edge.figures.rate));
    mark(path, "stroke-width", width.toFixed(2));
    element.look = `edge ${idle ? "idle " : ""}${tone}${chosen === `e:${edge.id}` ? " chosen" : ""}`;
    for (const part of [element, element.label]) mark(part, "class", `${element.look}${element.hot ? " hot" : ""}`);
    const [rect, sign, text] = pill.children;
    const shut = is_open ? "open" : edge.lock === "none" ? "calm" : "locked";
    if (pill.shut !== shut) {
      pill.shut = shut;
      sign.replaceChildren(icon(shut, 12));
      mark(sign, "class", `sign ${shut}`);
    }
    mark(pill, "class", `pill ${is_open ? "open" : ""}`);
    const told = [
      is_open ? lock_words[edge.lock] : "",
      wrong ? `${share_wrong >= 0.001 ? share(share_wrong) : "<0.1 %"} errors` : "",
      refused ? `${count(refused)} refused` : "",
      edge.alarms.length ? "alarm" : "",
    ].filter(Boolean)[0] ?? "";
    const swift = edge.figures.p95_us && !told ? latency(edge.figures.p95_us) : "";
    const figures = idle ? "idle" : [rate(edge.figures.rate), swift].filter(Boolean).join(" · ");
    say(text.children[0], figures);
    say(text.children[1], told ? `  ${told}` : "");
    // Measured by letters: asking the browser for each label at each turn costs a layout.
    const wide = 34 + figures.length * 6.2 + (told ? told.length * 6.6 + 8 : 0);
    mark(rect, "width", wide);
    mark(rect, "x", -wide / 2);
    mark(rect, "y", -11);
    mark(sign, "transform", `translate(${-wide / 2 + 9} -6)`);
    mark(text, "x", -wide / 2 + 25);
    mark(text, "y", 4);
    pill.wide = wide;
    mark(element, "aria-label", sentence(edge));
  }

  /** Each label at the place along its line where it covers no other. */
  function place_pills() {
    const taken = [];
    for (const element of edges_layer.children) {
      const pill = element.label.firstElementChild;
      const part = element.parts[Math.floor((element.parts.length - 1) / 2)];
      const spots = [0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2].map((t) => along(part, t));
      const wide = Math.max(pill.wide, 110);
      const covers = ([x, y]) => taken.filter(([tx, ty, tw]) => Math.abs(tx - x) < (tw + wide) / 2 + 4 && Math.abs(ty - y) < 25).length;
      const best = spots.reduce((found, spot) => (covers(spot) < covers(found) ? spot : found));
      taken.push([...best, wide]);
      mark(pill, "transform", `translate(${best[0]} ${best[1]})`);
    }
  }

  // Size.

  function resize() {
    const width = state.width + 2 * EDGE_OF_DRAWING;
    const height = state.height + 2 * EDGE_OF_DRAWING;
    mark(drawing, "viewBox", `${-EDGE_OF_DRAWING} ${-EDGE_OF_DRAWING} ${width} ${height}`);
    mark(drawing, "width", Math.round(width * state.scale));
    mark(drawing, "height", Math.round(height * state.scale));
  }

  function fit(wholly) {
    const room = canvas.clientWidth - 20;
    const across = room / (state.width + 2 * EDGE_OF_DRAWING);
    const down = Math.max(420, window.innerHeight - 320) / (state.height + 2 * EDGE_OF_DRAWING);
    // Letters stay readable unless all of it was asked for.
    state.scale = wholly ? Math.max(0.15, Math.min(across, down, 1.2)) : Math.max(0.64, Math.min(across, 1.1));
    state.by_hand = wholly;
    resize();
  }

  function scale_by(factor) {
    state.scale = Math.min(3, Math.max(0.15, state.scale * factor));
    state.by_hand = true;
    resize();
  }

  new ResizeObserver(() => { if (!state.by_hand && state.shape) fit(false); }).observe(canvas);

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || event.target.closest(".node, .edge")) return;
    drag = [event.clientX + canvas.scrollLeft, event.clientY + canvas.scrollTop];
    canvas.classList.add("dragging");
  });
  window.addEventListener("pointermove", (event) => {
    if (drag) canvas.scrollTo(drag[0] - event.clientX, drag[1] - event.clientY);
  });
  window.addEventListener("pointerup", () => {
    drag = null;
    canvas.classList.remove("dragging");
  });

  // Keys: one stop for Tab, arrows within.

  const element_of = (key) => [...edges_layer.children, ...nodes_layer.children].find((element) => element.dataset.key === key);

  function first_stop() {
    const first = [...state.items.keys()].find((key) => key.startsWith("n:"));
    return first ?? null;
  }

  function set_stop(key) {
    for (const element of drawing.querySelectorAll('[tabindex="0"]')) mark(element, "tabindex", "-1");
    state.stop = key;
    if (key) element_of(key)?.setAttribute("tabindex", "0");
  }

  function go(key) {
    if (!key) return;
    set_stop(key);
    const element = element_of(key);
    element?.focus();
    element?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function near(key, direction) {
    const item = state.items.get(key);
    const height = (id) => state.places.get(id).y;
    if (key.startsWith("n:")) {
      if (direction === "right" || direction === "left") {
        const own = direction === "right" ? "from" : "to";
        const other = direction === "right" ? "to" : "from";
        const found = state.data.edges.filter((edge) => edge[own] === item.id).sort((a, b) => height(a[other]) - height(b[other]));
        return found.length ? `e:${found[0].id}` : null;
      }
      const place = state.places.get(item.id);
      const column = state.data.nodes
        .filter((node) => state.places.get(node.id).x === place.x)
        .sort((a, b) => height(a.id) - height(b.id));
      const next = column[column.findIndex((node) => node.id === item.id) + (direction === "down" ? 1 : -1)];
      return next ? `n:${next.id}` : null;
    }
    if (direction === "right") return `n:${item.to}`;
    if (direction === "left") return `n:${item.from}`;
    const kin = state.data.edges.filter((edge) => edge.from === item.from).sort((a, b) => height(a.to) - height(b.to));
    const next = kin[kin.findIndex((edge) => edge.id === item.id) + (direction === "down" ? 1 : -1)];
    return next ? `e:${next.id}` : null;
  }

  drawing.addEventListener("focusin", (event) => {
    const element = event.target.closest("[data-key]");
    if (element && element.dataset.key !== state.stop) set_stop(element.dataset.key);
  });
  drawing.addEventListener("keydown", (event) => {
    const element = event.target.closest("[data-key]");
    if (!element || event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = { ArrowRight: "right", ArrowLeft: "left", ArrowUp: "up", ArrowDown: "down" }[event.key];
    if (arrow) go(near(element.dataset.key, arrow));
    else if (event.key === "Enter" || event.key === " ") choose(element.dataset.key.startsWith("n:") ? "node" : "edge", element.item);
    else if (event.key === "+" || event.key === "=") scale_by(1.25);
    else if (event.key === "-") scale_by(1 / 1.25);
    else if (event.key === "0") fit(true);
    else return;
    event.preventDefault();
  });

  return { box, show, go };
}

/** What the lines mean, for those who see them. */
function legend() {
  const sample = (...children) => s("svg", { viewBox: "0 0 26 14", "aria-hidden": "true" }, ...children);
  const stroke = (tone, props) => s("g", { class: `edge ${tone}` }, s("path", { class: "line", d: "M2 7H24", "stroke-width": 2.2, ...props }));
  return h("ul", { class: "legend", "aria-label": "Legend" },
    h("li", {}, s("svg", { viewBox: "-5 -1 26 18", "aria-hidden": "true" }, s("g", { class: "good" }, icon("locked", 16))), "mutual TLS"),
    h("li", {}, s("svg", { viewBox: "-5 -1 26 18", "aria-hidden": "true" }, s("g", { class: "bad" }, icon("open", 16))), "plaintext"),
    h("li", {}, sample(stroke("idle", {})), "no calls in this span"),
    h("li", {}, sample(stroke("warn", {})), "refused calls"),
    h("li", {}, sample(stroke("bad", { "stroke-width": 3 })), "errors, plaintext or an alarm"),
    h("li", {}, "label: calls · 95 % answered within"));
}

function cut(text, letters) {
  return text.length > letters ? `${text.slice(0, letters - 1)}…` : text;
}
