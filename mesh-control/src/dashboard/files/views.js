// Tables, alarms and details: everything but the drawing and the wiring.

import { ask, bytes, clock, count, h, icon, keyed, latency, mark, now, plural, rate, say, share, short, some, span, state, time } from "./dom.js";
import { judged, lock_words } from "./graph.js";

/** A table that keeps its rows; `columns` are `{name, number, wide, tight, head, fill(cell, item)}`. */
export function table(label, columns, key) {
  const body = h("tbody");
  const head = h("tr", {}, ...columns.map((column) => h("th", { scope: "col", class: column.number ? "number" : null, text: column.name })));
  const note = h("p", { class: "note", hidden: true });
  const empty = h("p", { class: "empty", hidden: true });
  const scroll = h("div", { class: "scroll" },
    h("table", {}, h("caption", { class: "hidden", text: label }), h("thead", {}, head), body));
  const box = h("div", { class: "card" }, scroll, empty, note);
  const make = () => h("tr", {}, ...columns.map((column, at) => h(at ? "td" : "th", {
    scope: at ? null : "row",
    class: [column.number && "number", column.wide && "wide", column.tight && "tight"].filter(Boolean).join(" ") || null,
  })));
  const update = (row, item) => columns.forEach((column, at) => column.fill(row.children[at], item));
  function show(items, matching, nothing) {
    keyed(body, items, key, make, update);
    scroll.hidden = items.length === 0;
    empty.hidden = items.length > 0;
    say(empty, nothing);
    note.hidden = items.length >= matching;
    say(note, `Showing ${count(items.length)} of ${count(matching)}. The filter finds the others.`);
  }
  return { box, show };
}

/** A cell's content that is made anew only when what it says has changed. */
function fresh(cell, said, make) {
  if (cell.said === said) return;
  cell.said = said;
  cell.replaceChildren(...[make()].flat());
}

/** A button in a cell: what it opens is the row's item. */
function opener(cell, text, below, open) {
  fresh(cell, `${text}\n${below}`, () => [
    h("button", { type: "button", class: "link", text, onclick: () => open(cell.parentElement.item) }),
    below ? h("small", { text: below }) : "",
  ].filter(Boolean));
}

function lock(edge) {
  const is_good = edge.lock === "mutual";
  const tone = is_good ? "good" : edge.lock === "none" ? "calm" : "bad";
  const picture = is_good ? "locked" : edge.lock === "none" ? "calm" : "open";
  return h("span", { class: `lock ${tone}` }, icon(picture), h("span", { text: lock_words[edge.lock] }));
}

function toned(cell, number, tone) {
  say(cell, some(number));
  cell.classList.toggle(tone, number > 0);
}

const figure_columns = (of) => [
  { name: "Calls", number: true, fill: (cell, item) => say(cell, some(of(item).requests)) },
  { name: "Rate", number: true, fill: (cell, item) => say(cell, of(item).requests ? rate(of(item).rate) : "–") },
  { name: "Success", number: true, fill: (cell, item) => {
    say(cell, share(of(item).success));
    cell.classList.toggle("bad", of(item).success !== null && of(item).success < 0.99);
  } },
  { name: "Errors", number: true, fill: (cell, item) => toned(cell, of(item).failed + of(item).errors, "bad") },
  { name: "Refused", number: true, fill: (cell, item) => toned(cell, of(item).denied + of(item).limited, "warn") },
  { name: "p50", number: true, fill: (cell, item) => say(cell, latency(of(item).p50_us)) },
  { name: "p95", number: true, fill: (cell, item) => say(cell, latency(of(item).p95_us)) },
  { name: "p99", number: true, fill: (cell, item) => say(cell, latency(of(item).p99_us)) },
];

export const edges_table = (open) => table("Calls between services", [
  { name: "From", fill: (cell, edge) => opener(cell, short(edge.from), "", () => open("edge", edge_of(cell))) },
  { name: "To", wide: true, fill: (cell, edge) => say(cell, short(edge.to)) },
  { name: "Protection", fill: (cell, edge) => fresh(cell, edge.lock, () => lock(edge)) },
  { name: "Protocol", tight: true, fill: (cell, edge) => say(cell, edge.protocols.join(", ") || "–") },
  ...figure_columns((edge) => edge.figures),
], (edge) => edge.id);

const edge_of = (cell) => cell.parentElement.item;

export const services_table = (open) => table("Services", [
  { name: "Service", fill: (cell, node) => opener(cell, node.name, node.namespace, () => open("node", edge_of(cell))) },
  { name: "State", fill: (cell, node) => {
    const [tone, text] = node.alarms.length ? ["bad", plural(node.alarms.length, "alarm")]
      : node.kind === "unmeshed" ? ["warn", "no identity"]
      : !node.proxies ? ["calm", "no proxy"]
      : node.in_sync < node.proxies ? ["warn", `${node.in_sync}/${node.proxies} in sync`]
      : ["good", `${node.proxies}/${node.proxies} in sync`];
    fresh(cell, text, () => state(tone, text));
  } },
  ...figure_columns((node) => node.received),
], (node) => node.id);

export const identities_table = () => table("Valid certificates", [
  { name: "Identity", wide: true, fill: (cell, one) => fresh(cell, one.identity, () => [h("span", { text: short(one.identity) }), h("small", { text: one.identity })]) },
  { name: "Instance", wide: true, fill: (cell, one) => say(cell, one.instance) },
  { name: "State", fill: (cell, one) => {
    const [tone, text] = life(one);
    fresh(cell, `${tone}${text}`, () => state(tone, text));
  } },
  { name: "Life left", fill: remaining },
  { name: "Ends", tight: true, fill: (cell, one) => say(cell, clock(one.not_after_ms)) },
  { name: "Proven by", wide: true, fill: (cell, one) => say(cell, one.attestor) },
  { name: "Serial", wide: true, fill: (cell, one) => fresh(cell, one.serial, () => h("code", { text: `${one.serial.slice(0, 12)}…`, title: one.serial })) },
], (one) => `${one.serial}${one.instance}`);

function life(one) {
  const left = one.not_after_ms - now();
  if (one.revoked) return ["bad", "revoked"];
  if (one.replaced) return ["calm", "replaced"];
  if (left <= 0) return ["bad", "expired"];
  return left < (one.not_after_ms - one.not_before_ms) / 4 ? ["warn", "ends soon"] : ["good", "valid"];
}

function remaining(cell, one) {
  const whole = one.not_after_ms - one.not_before_ms;
  const left = Math.max(0, one.not_after_ms - now());
  const part = whole > 0 ? Math.round((left / whole) * 100) : 0;
  if (!cell.firstChild) cell.append(h("meter", { min: 0, max: 100, low: 25, high: 26, optimum: 100 }), h("small"));
  mark(cell.firstChild, "value", part);
  mark(cell.firstChild, "aria-label", `${part} per cent of its life left`);
  say(cell.lastChild, `${span(left)} (${part} %)`);
}

export function authority(box, { authority: ca }) {
  const certificate = (name, one) => [name, `${one.subject || one.serial.slice(0, 12)}, ${span(one.not_after_ms - now())} left${one.state && one.state !== "active" ? ` (${one.state})` : ""}`];
  const facts = [
    ...ca.roots.map((root) => certificate("Root", root)),
    ...(ca.issuing ? [certificate("Issued by", ca.issuing)] : []),
    ["Rotation", ca.waiting_for ? `${ca.rotation}: waits for ${ca.waiting_for}` : ca.rotation],
    ["Issued", count(ca.issued)],
    ["Revoked", count(ca.revoked)],
  ];
  fill_facts(box, facts);
}

function fill_facts(box, facts) {
  keyed(box, facts.map(([name, value], at) => ({ key: `${at}${name}`, name, value })), (fact) => fact.key,
    (fact) => h("div", {}, h("dt", { text: fact.name }), h("dd")),
    (element, fact) => say(element.lastChild, fact.value));
}

const POLICY_TONES = { enforced: "good", partial: "warn", accepted: "good", idle: "calm", trouble: "bad" };

export const policies_table = (open) => table("Policies and other resources", [
  { name: "Name", wide: true, fill: (cell, one) => opener(cell, one.name, one.namespace || "mesh-wide", () => open("policy", edge_of(cell))) },
  { name: "Kind", tight: true, fill: (cell, one) => say(cell, one.kind) },
  { name: "Status", wide: true, fill: (cell, one) => fresh(cell, one.status, () => state(POLICY_TONES[one.state], one.status || "Accepted")) },
  { name: "Revision", number: true, fill: (cell, one) => say(cell, count(one.revision)) },
], (one) => `${one.kind}/${one.namespace}/${one.name}`);

const PROXY_TONES = { "in-sync": "good", updating: "warn", draining: "calm", refused: "bad" };

export const proxies_table = () => table("Connected proxies", [
  { name: "Instance", wide: true, fill: (cell, one) => fresh(cell, one.instance + one.workload, () => [h("span", { text: one.instance }), h("small", { text: one.workload })]) },
  { name: "State", wide: true, fill: (cell, one) => {
    const text = one.state === "updating" ? `updating for ${span(one.lag_ms)}` : one.state.replace("-", " ");
    fresh(cell, text + one.refusal, () => [state(PROXY_TONES[one.state] ?? "calm", text), one.refusal ? h("small", { text: one.refusal }) : ""].filter(Boolean));
  } },
  { name: "Revision", number: true, fill: (cell, one) => say(cell, count(one.revision)) },
  { name: "Address", tight: true, fill: (cell, one) => say(cell, one.address) },
  { name: "Version", tight: true, fill: (cell, one) => say(cell, one.version) },
  { name: "Connected for", tight: true, fill: (cell, one) => say(cell, span(now() - one.connected_ms)) },
  { name: "Certificate left", tight: true, fill: (cell, one) => say(cell, span(Math.max(0, one.not_after_ms - now()))) },
], (one) => one.instance + one.identity);

export const decisions_table = (open) => table("Recorded decisions, the newest first", [
  { name: "Time", tight: true, fill: (cell, one) => say(cell, time(one.time_ms)) },
  { name: "Verdict", fill: (cell, one) => fresh(cell, String(one.allowed), () => verdict(one)) },
  { name: "From", wide: true, fill: (cell, one) => say(cell, short(one.source)) },
  { name: "To", wide: true, fill: (cell, one) => say(cell, short(one.destination)) },
  { name: "Call", wide: true, fill: (cell, one) => opener(cell, request(one), one.id, () => open("decision", edge_of(cell))) },
  { name: "Why", wide: true, fill: (cell, one) => fresh(cell, one.reason + one.rule, () => [h("span", { text: one.reason }), one.rule ? h("small", { text: one.rule }) : ""].filter(Boolean)) },
], (one) => one.id + one.destination);

const verdict = (one) => (one.allowed ? state("good", "allowed") : state("bad", "refused"));
const request = (one) => (one.method ? `${one.method} ${one.path}` : `${one.protocol || "tcp"} :${one.port}`);

/** Alarms, those that burn first. */
export function alarms_list() {
  const burning = h("ul", { class: "alarms" });
  const over = h("ul", { class: "alarms" });
  const none = h("p", { class: "empty", text: "Nothing burns." });
  const over_section = h("section", {}, h("h2", { text: "Over" }), h("div", { class: "card" }, over));
  const extra = h("section", {}, h("h2", { text: "Silences and sinks" }), h("dl", { class: "card facts" }));
  const box = h("div", {}, h("section", { "aria-label": "Burning" }, h("div", { class: "card" }, burning, none)), over_section, extra);
  const make = () => h("li", {}, h("div"), h("div", {}, h("p", { class: "said" }), h("p", { class: "meta" }), h("p", { class: "meta" })));
  const tone = (alarm) => (alarm.state !== "firing" ? "calm" : alarm.severity === "critical" ? "bad" : alarm.severity === "warning" ? "warn" : "calm");
  const update = (element, alarm) => {
    const [head, text] = element.children;
    fresh(head, alarm.state + alarm.severity, () => state(tone(alarm), alarm.state === "firing" ? alarm.severity : "over"));
    say(text.children[0], alarm.sentence);
    const told = [alarm.detector, `since ${time(alarm.since_ms)}`, alarm.count > 1 ? `seen ${count(alarm.count)} times` : "", alarm.resolved_ms ? `ended ${time(alarm.resolved_ms)}` : "",
      alarm.acked_by ? `acknowledged by ${alarm.acked_by}${alarm.comment ? `: ${alarm.comment}` : ""}` : alarm.state === "firing" ? "not acknowledged" : "", alarm.silenced ? "silenced" : "", alarm.sinks.length ? `told to ${alarm.sinks.join(", ")}` : ""];
    say(text.children[1], told.filter(Boolean).join(" · "));
    const commands = [alarm.command, alarm.state === "firing" && !alarm.acked_by ? `meshctl alerts ack ${alarm.id}` : ""].filter(Boolean);
    fresh(text.children[2], commands.join("\n"), () => commands.flatMap((command, at) => [at ? " " : "", h("code", { text: command })]).filter(Boolean));
  };
  function show(data, filter) {
    const takes = (alarm) => [alarm.source, alarm.destination, alarm.service, alarm.detector, alarm.sentence].some((text) => text.toLowerCase().includes(filter));
    const [firing, ended] = [data.alarms.filter((alarm) => alarm.state === "firing" && takes(alarm)), data.alarms.filter((alarm) => alarm.state !== "firing" && takes(alarm))];
    keyed(burning, firing, (alarm) => alarm.id, make, update);
    keyed(over, ended, (alarm) => alarm.id, make, update);
    burning.hidden = !firing.length;
    none.hidden = firing.length > 0;
    over_section.hidden = !ended.length;
    const facts = [
      ...data.silences.map((one) => ["Silence", `${one.detector || "all"} from ${one.source || "all"} to ${one.destination || "all"}, ${span(one.until_ms - now())} more, by ${one.by}`]),
      ...data.sinks.map((sink) => [`Sink ${sink.name}`, sink.problem ? `${sink.problem}; ${count(sink.waiting)} wait` : `${sink.kind} at ${sink.target}, in order`]),
    ];
    extra.hidden = !facts.length;
    fill_facts(extra.lastChild, facts);
  }
  return { box, show };
}

/** The panel of details. `refresh` follows the figures; `explain` asks why. */
export function make_panel(panel, on_close) {
  let shown = null;
  let back_to = null;

  function open(title, parts, previous) {
    if (panel.hidden) back_to = document.activeElement;
    const heading = h("h2", { tabindex: "-1", text: title });
    const buttons = h("div", {},
      previous ? h("button", { type: "button", class: "plain", text: "Back", onclick: previous }) : "",
      h("button", { type: "button", class: "plain", "aria-label": "Close details", text: "✕", onclick: close }));
    panel.replaceChildren(h("div", { class: "top" }, heading, buttons), ...parts);
    panel.hidden = false;
    panel.scrollTop = 0;
    heading.focus();
  }

  function close() {
    if (panel.hidden) return;
    panel.hidden = true;
    panel.replaceChildren();
    shown = null;
    on_close();
    // The row or line may be another element by now; the page's own place is better than none.
    (back_to?.isConnected ? back_to : document.getElementById("main")).focus();
  }

  const facts = (pairs) => h("dl", {}, ...pairs.filter(([, value]) => value !== "" && value !== null).flatMap(([name, value]) => [
    h("dt", { text: name }), h("dd", {}, typeof value === "string" ? document.createTextNode(value) : value)]));

  function figures_of(of, total) {
    return [
      ["Calls", `${count(of.requests)} (${rate(of.rate)})`],
      ["Answered well", share(of.success)],
      ["Errors", of.failed + of.errors ? `${count(of.errors)} answered 5xx, ${count(of.failed)} not reached` : "none"],
      ["Refused", of.denied + of.limited ? `${count(of.denied)} by policy, ${count(of.limited)} by a limit` : "none"],
      ["Latency", of.p50_us ? `p50 ${latency(of.p50_us)}, p95 ${latency(of.p95_us)}, p99 ${latency(of.p99_us)}` : "–"],
      ["Bytes", `${bytes(of.bytes_in)} in, ${bytes(of.bytes_out)} out`],
      total ? ["Since the start", `${count(total.requests)} calls, ${count(total.denied + total.limited)} refused, ${count(total.errors + total.failed)} errors`] : ["", ""],
    ];
  }

  function alarms_of(ids, overview) {
    const burning = (overview?.alarms ?? []).filter((alarm) => ids.includes(alarm.id));
    return burning.length ? [h("h3", { text: "Alarms" }), h("ul", { class: "list" }, ...burning.map((alarm) => h("li", {}, state("bad", ""), h("span", { text: alarm.sentence }))))] : [];
  }

  function edge(item, overview) {
    shown = { kind: "edge", id: item.id };
    const numbers = h("div", {}, facts(figures_of(item.figures, item.total)));
    shown.refresh = (fresh_item) => numbers.replaceChildren(facts(figures_of(fresh_item.figures, fresh_item.total)));
    const recent = h("div", {}, h("p", { class: "muted", text: "…" }));
    const is_http = item.protocols.some((protocol) => protocol.startsWith("http") || protocol === "grpc") || !item.protocols.length;
    open(`${short(item.from)} → ${short(item.to)}`, [
      facts([["Protection", lock(item)], ["TLS", [item.tls.join(", "), item.exchange].filter(Boolean).join(", ")], ["Caller", item.source], ["Answered by", item.destinations.join(", ")], ["Protocol", item.protocols.join(", ")],
        ["Last refusal", [item.last_reason, item.last_rule].filter(Boolean).join(": ")], ["Last call", item.last_seen_ms ? `${span(now() - item.last_seen_ms)} ago` : ""]]),
      ...alarms_of(item.alarms, overview),
      h("h3", { text: "Figures" }), numbers,
      h("h3", { text: "Would a call pass?" }), asker(item, is_http),
      h("h3", { text: "Recent decisions" }), recent,
    ]);
    decisions_of(item, recent, () => edge(item, overview));
  }

  async function decisions_of(item, box, previous) {
    try {
      const { value } = await ask("decisions", { source: item.source, to: item.destinations.join(","), limit: 12 });
      if (!value.items.length) box.replaceChildren(h("p", { class: "muted", text: "None is kept: refusals are, of what passes a sample." }));
      else box.replaceChildren(h("ul", { class: "list" }, ...value.items.map((one) => h("li", {}, verdict(one), h("div", {},
        h("button", { type: "button", class: "link", text: request(one), onclick: () => explain({ id: one.id }, previous) }),
        h("small", { text: `${time(one.time_ms)} · ${one.reason}` }))))));
    } catch (trouble) {
      box.replaceChildren(h("p", { class: "bad", text: trouble.message }));
    }
  }

  function asker(item, is_http) {
    const method = h("select", { "aria-label": "Method" }, ...["GET", "POST", "PUT", "PATCH", "DELETE"].map((name) => h("option", { text: name })));
    const path = h("input", { type: "text", value: "/", "aria-label": "Path", spellcheck: "false", autocomplete: "off" });
    const fields = () => ({ from: item.source, to: item.target, ...(is_http ? { method: method.value, path: path.value } : { protocol: item.protocols[0] }) });
    const go = () => explain(fields(), () => edge(item));
    path.addEventListener("keydown", (event) => { if (event.key === "Enter") go(); });
    return h("div", { class: "ask" }, is_http ? method : "", is_http ? path : "", h("button", { type: "button", text: "Explain", onclick: go }));
  }

  function node(item, overview, edges, open_edge) {
    shown = { kind: "node", id: item.id };
    const numbers = h("div", {}, facts(figures_of(item.received)));
    shown.refresh = (fresh_item) => numbers.replaceChildren(facts(figures_of(fresh_item.received)));
    const calls = (list, name) => (list.length ? [h("h3", { text: name }), h("ul", { class: "list" }, ...list.slice(0, 30).map((one) => {
      const { tone, idle } = judged(one);
      return h("li", {}, state(tone === "calm" ? (idle ? "calm" : "good") : tone, ""), h("div", {},
        h("button", { type: "button", class: "link", text: short(name === "Called by" ? one.from : one.to), onclick: () => open_edge(one) }),
        h("small", { text: idle ? "no calls in this span" : `${rate(one.figures.rate)} · p95 ${latency(one.figures.p95_us)}` })));
    }))] : []);
    open(`${item.namespace ? `${item.namespace}/` : ""}${item.name}`, [
      facts([["Kind", item.kind === "workload" ? "workload, answers for no service" : item.kind], ["Proxies", item.proxies ? `${item.in_sync} of ${item.proxies} in sync` : "none connected"],
        ["Workloads", item.workloads.join(", ")], ["Identities", item.identities.join(", ")]]),
      ...alarms_of(item.alarms, overview),
      h("h3", { text: "What it was asked" }), numbers,
      ...calls(edges.filter((one) => one.to === item.id), "Called by"),
      ...calls(edges.filter((one) => one.from === item.id), "Calls"),
    ]);
  }

  async function policy(item) {
    shown = { kind: "policy", id: item.name };
    const text = h("pre", { text: "…", tabindex: "0", "aria-label": "Its text" });
    open(item.name, [facts([["Kind", item.kind], ["Namespace", item.namespace || "mesh-wide"], ["Status", state(POLICY_TONES[item.state], item.status || "Accepted")], ["Revision", count(item.revision)]]), h("h3", { text: "Resource" }), text]);
    try {
      const { value } = await ask("policy", { kind: item.kind, namespace: item.namespace, name: item.name });
      say(text, value.yaml);
    } catch (trouble) {
      say(text, trouble.message);
    }
  }

  async function explain(fields, previous) {
    shown = { kind: "explain" };
    const box = h("div", { "aria-live": "polite" }, h("p", { class: "muted", text: "Asking…" }));
    open(fields.id ? `Decision ${fields.id}` : "Would it pass?", [box], previous);
    try {
      const { value } = await ask("explain", fields);
      box.replaceChildren(...explained(value));
    } catch (trouble) {
      box.replaceChildren(h("p", { class: "bad", text: trouble.message }));
    }
  }

  function explained({ allowed, reason, rules, nearest_miss, patch, decision }) {
    const why = reason.replaceAll("_", " ");
    return [
      h("div", { class: `verdict ${allowed ? "good" : "bad"}` }, icon(allowed ? "good" : "bad", 20), h("span", { text: `${allowed ? "Allowed" : "Refused"}: ${why}` })),
      facts([["From", decision.source], ["To", decision.destination], ["Call", request(decision)], ["Host", decision.host], ["Rule", decision.rule], ["Time", decision.time_ms ? clock(decision.time_ms) : ""], ["Revision", decision.revision ? count(decision.revision) : ""]]),
      ...(nearest_miss ? [h("h3", { text: "Nearest miss" }), h("p", { text: nearest_miss })] : []),
      ...(patch ? [h("h3", { text: "Smallest change" }), h("pre", { text: patch, tabindex: "0", "aria-label": "Smallest change" })] : []),
      h("h3", { text: "Rules in the order of evaluation" }),
      rules.length ? h("ol", { class: "rules" }, ...rules.map((rule) => h("li", { class: rule.decided ? "decided" : null },
        h("div", { text: `${rule.action} · ${rule.policy} · ${rule.rule}${rule.audit ? " (audit)" : ""}` }),
        h("small", { class: "muted", text: rule.decided ? "decides" : rule.matched ? "matches" : rule.failed_condition }),
        rule.file ? h("small", { class: "muted", text: ` — ${rule.file}:${rule.line}` }) : ""))) : h("p", { class: "muted", text: "No rule is about this workload." }),
    ];
  }

  /** New figures for what is open. */
  function follow(kind, items) {
    if (shown?.kind !== kind || !shown.refresh) return;
    const found = items.find((item) => item.id === shown.id);
    if (found) shown.refresh(found);
  }

  return { edge, node, policy, explain, close, follow, chosen: () => (shown?.id ? `${shown.kind[0]}:${shown.id}` : "") };
}
