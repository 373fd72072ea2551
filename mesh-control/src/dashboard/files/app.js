// The page's wiring: views, keys, and asking every two seconds while somebody looks.

import { ask, count, h, icon, mark, plural, say } from "./dom.js";
import { make_graph } from "./graph.js";
import { alarms_list, authority, decisions_table, edges_table, identities_table, make_panel, policies_table, proxies_table, services_table } from "./views.js";

const EVERY_MS = 2000;
const $ = (id) => document.getElementById(id);

const page = { view: "graph", filters: {}, overview: null, graph: null, known_alarms: null, asking: false, again: false };

const panel = make_panel($("panel"), () => { if (page.graph) draw_graph(); });

function open(kind, item) {
  if (kind === "edge") panel.edge(item, page.overview);
  else if (kind === "node") panel.node(item, page.overview, page.graph?.edges ?? [], (edge) => open("edge", edge));
  else if (kind === "policy") panel.policy(item);
  else if (kind === "decision") panel.explain({ id: item.id });
  if (page.view === "graph" && page.graph) draw_graph();
}

const graph = make_graph(open);
const edges = edges_table(open);
const services = services_table(open);
const alarms = alarms_list();
const identities = identities_table();
const authority_facts = h("dl", { class: "facts" });
const policies = policies_table(open);
const proxies = proxies_table();
const decisions = decisions_table(open);
const graph_empty = h("div", { class: "empty", hidden: true }, h("p"), h("code", { text: "meshctl run --name web --to payments=127.0.0.1:9001" }));
const graph_note = h("p", { class: "note", hidden: true });

const shown_of = (items, matching) => (items < matching ? `showing ${count(items)} of ${count(matching)}` : "");
const joined = (...parts) => parts.filter(Boolean).join(" · ");
const nothing = (text) => (filter() ? "Nothing has this name." : text);

/** Each view: what it asks for, and how it shows the answer; the answer of `show` is the line below the title. */
const VIEWS = {
  graph: {
    title: "Graph", has_window: true, asks: "graph",
    box: h("div", {}, h("section", { class: "card", "aria-label": "Service graph" }, graph_note, graph.box, graph_empty),
      h("section", {}, h("h2", { text: "Calls" }), edges.box)),
    show(data) {
      page.graph = data;
      draw_graph();
      panel.follow("edge", data.edges);
      panel.follow("node", data.nodes);
      edges.show(data.edges, data.edges_matching, nothing("No calls yet."));
      return joined(plural(data.nodes.length, "service"), plural(data.edges_matching, "connection"), shown_of(data.edges.length, data.edges_matching));
    },
  },
  services: {
    title: "Services", has_window: true, asks: "services", box: services.box,
    show(data) {
      services.show(data.services, data.matching, nothing("No service is registered."));
      panel.follow("node", data.services);
      return joined(plural(data.total, "service"), shown_of(data.services.length, data.matching));
    },
  },
  alarms: {
    title: "Alarms", box: alarms.box,
    show() {
      const { overview } = page;
      alarms.show(overview, filter().toLowerCase());
      return joined(overview.firing ? `${count(overview.firing)} burning` : "nothing burns", overview.critical ? `${count(overview.critical)} critical` : "", overview.acknowledged ? `${count(overview.acknowledged)} acknowledged` : "");
    },
  },
  identities: {
    title: "Identities and certificates", asks: "identities",
    box: h("div", {}, h("section", { "aria-label": "Certificate authority" }, h("div", { class: "card" }, authority_facts)), h("section", {}, h("h2", { text: "Valid certificates" }), identities.box)),
    show(data) {
      authority(authority_facts, data);
      identities.show(data.items, data.matching, nothing("No certificate is in use."));
      return joined(plural(data.total, "certificate"), shown_of(data.items.length, data.matching));
    },
  },
  policies: {
    title: "Policies", asks: "policies", box: policies.box,
    show(data) {
      policies.show(data.items, data.matching, nothing("There is no policy: nothing passes."));
      return joined(plural(data.total, "resource"), `revision ${count(page.overview?.revision ?? 0)}`, shown_of(data.items.length, data.matching));
    },
  },
  proxies: {
    title: "Proxies", asks: "proxies", box: proxies.box,
    show(data) {
      proxies.show(data.items, data.matching, nothing("No proxy is connected."));
      return joined(`${count(page.overview?.in_sync ?? 0)} of ${plural(page.overview?.proxies ?? 0, "proxy", "proxies")} in sync`, shown_of(data.items.length, data.matching));
    },
  },
  decisions: {
    title: "Decisions", asks: "decisions", has_refused: true, no_filter: true, box: decisions.box,
    show(data) {
      decisions.show(data.items, data.matching, "No decision is kept: refusals are, of what passes a sample.");
      return joined(plural(data.total, "recorded decision"), shown_of(data.items.length, data.matching));
    },
  },
};
const NAMES = Object.keys(VIEWS);
const filter = () => page.filters[page.view] ?? "";

function draw_graph() {
  const { graph: data } = page;
  const is_empty = data.nodes.length === 0;
  graph_empty.hidden = !is_empty;
  graph.box.hidden = is_empty;
  say(graph_empty.firstChild, filter() ? "Nothing has this name." : "Nobody has joined this mesh yet. Start a program with its sidecar:");
  graph_empty.lastChild.hidden = Boolean(filter());
  const notes = [
    data.edges.length < data.edges_matching ? `Showing ${count(data.edges.length)} of ${count(data.edges_matching)} connections: those with alarms and errors, then the busiest. The filter finds the others.` : "",
    data.gaps.length ? `Not everything is known of this span: ${data.gaps[data.gaps.length - 1].reason}.` : "",
  ].filter(Boolean);
  graph_note.hidden = !notes.length;
  say(graph_note, notes.join(" "));
  if (!is_empty) graph.show(data, panel.chosen());
}

function choose_view(name) {
  page.view = NAMES.includes(name) ? name : "graph";
  const view = VIEWS[page.view];
  for (const link of document.querySelectorAll("#views a")) mark(link, "aria-current", link.dataset.view === page.view ? "page" : null);
  say($("title"), view.title);
  document.title = `${view.title} – Mesh`;
  say($("summary"), "\u00a0");
  $("window-field").hidden = !view.has_window;
  $("refused-field").hidden = !view.has_refused;
  $("filter").closest(".field").hidden = Boolean(view.no_filter);
  $("filter").value = filter();
  $("view").replaceChildren(view.box);
  panel.close();
  refresh();
}

function fields(view) {
  return {
    q: view.no_filter ? "" : filter(),
    window: view.has_window ? $("window").value : "",
    refused: view.has_refused && $("refused").checked ? "1" : "",
  };
}

async function refresh() {
  if (page.asking) {
    page.again = true;
    return;
  }
  page.asking = true;
  const name = page.view;
  const view = VIEWS[name];
  try {
    const [overview, data] = await Promise.all([ask("overview"), view.asks ? ask(view.asks, fields(view)) : null]);
    show_overview(overview.value);
    if (name === page.view) say($("summary"), view.show(data?.value));
    show_trouble(null);
  } catch (trouble) {
    show_trouble(trouble);
  } finally {
    page.asking = false;
    if (page.again) {
      page.again = false;
      refresh();
    }
  }
}

function show_overview(overview) {
  page.overview = overview;
  say($("domain"), overview.trust_domain);
  const badge = $("badge");
  badge.hidden = overview.firing === 0;
  say(badge, String(overview.firing));
  mark(badge, "aria-label", `${overview.firing} burning`);
  const firing = overview.alarms.filter((alarm) => alarm.state === "firing");
  if (page.known_alarms) {
    const news = firing.filter((alarm) => !page.known_alarms.has(alarm.id));
    if (news.length) say($("announce"), news.map((alarm) => `Alarm: ${alarm.sentence}`).join(". "));
  }
  page.known_alarms = new Set(firing.map((alarm) => alarm.id));
}

function live(tone, text) {
  const element = $("live");
  if (element.said === text) return;
  element.said = text;
  element.replaceChildren(h("span", { class: `state ${tone}` }, icon(tone === "calm" ? "pause" : tone)), h("span", { text }));
}

function show_trouble(trouble) {
  const banner = $("banner");
  if (!trouble) {
    banner.hidden = true;
    say(banner, "");
    live("good", "Live");
    return;
  }
  const is_gone = trouble.status === 0 || trouble.status === 503;
  const next = trouble.next ? ` Next: ${trouble.next}` : "";
  say(banner, `${trouble.message}.${next}${is_gone ? " What is shown is from before; trying again." : ""}`.replace("..", "."));
  banner.hidden = false;
  live("bad", "Not live");
}

// Light, dark, or as the system has it.

const THEMES = { auto: ["auto", "Colours: as the system"], light: ["sun", "Colours: light"], dark: ["moon", "Colours: dark"] };

function set_theme(name) {
  mark(document.documentElement, "data-theme", name);
  const [picture, label] = THEMES[name];
  $("theme").replaceChildren(icon(picture, 18));
  mark($("theme"), "aria-label", label);
  mark($("theme"), "title", `${label} (t)`);
  try {
    localStorage.setItem("theme", name);
  } catch { /* a browser that keeps nothing shows the system's */ }
}

function next_theme() {
  const names = Object.keys(THEMES);
  set_theme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
}

// Start.

for (const [at, name] of NAMES.entries()) {
  const label = name === "identities" ? "Identities" : VIEWS[name].title;
  $("views").append(h("li", {}, h("a", { href: `#${name}`, "data-view": name, title: `${label} (${at + 1})` }, label,
    name === "alarms" ? h("span", { id: "badge", class: "badge", hidden: true }) : "")));
}
let kept = null;
try {
  kept = localStorage.getItem("theme");
} catch { /* see set_theme */ }
set_theme(THEMES[kept] ? kept : "auto");
live("calm", "Connecting");

window.addEventListener("hashchange", () => choose_view(location.hash.slice(1)));
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
let typing = 0;
$("filter").addEventListener("input", () => {
  page.filters[page.view] = $("filter").value.trim();
  clearTimeout(typing);
  typing = setTimeout(refresh, 150);
});
$("window").addEventListener("change", refresh);
$("refused").addEventListener("change", refresh);
$("theme").addEventListener("click", next_theme);
$("help-open").addEventListener("click", () => $("help").showModal());
$("help-close").addEventListener("click", () => $("help").close());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const is_typing = event.target.closest("input[type='search'], input[type='text'], select");
  if (event.key === "Escape" && !$("panel").hidden) panel.close();
  else if (is_typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  } else if (event.key === "?") $("help").showModal();
  else if (event.key === "/") $("filter").focus();
  else if (event.key === "t") next_theme();
  else if (/^[1-9]$/.test(event.key) && NAMES[event.key - 1]) location.hash = NAMES[event.key - 1];
  else return;
  event.preventDefault();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) live("calm", "Paused");
  else refresh();
});
setInterval(() => { if (!document.hidden) refresh(); }, EVERY_MS);
choose_view(location.hash.slice(1));
