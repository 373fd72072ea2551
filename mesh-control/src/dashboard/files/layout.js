// Where services and calls stand: callers left, callees right, as few crossings as some sweeps find. Pure.
//
// Ranks by the longest way from a caller that nobody calls (calls that close a circle do not count), order within a rank by
// the mean place of the neighbours, and a place of its own in each rank for every call that passes it, so that no line
// runs through a box.

/** Places of calls in ranks that they pass; beyond, they are drawn straight. */
const PASSING_MAX = 3000;
/** Services without calls stand below, in as many columns as fit, at least this many. */
const COLUMNS = 4;

/**
 * @param nodes `{id}` in a stable order
 * @param edges `{id, from, to}`
 * @param size `{width, height, across, down}` of a box and of the room between boxes
 * @returns `{places: Map(id → {x, y, rank, at}), lines: Map(id → points), width, height}`
 */
export function layout(nodes, edges, size) {
  const ids = nodes.map((node) => node.id);
  const called = new Set(edges.flatMap((edge) => [edge.from, edge.to]));
  const busy = ids.filter((id) => called.has(id));
  const { rank, links } = ranked(busy, edges);
  const { rows, ways } = filled(busy, rank, links, edges);
  ordered(rows);
  const { places, width, height } = placed(rows, size);
  const lines = new Map();
  for (const edge of edges) lines.set(edge.id, line(edge, ways.get(edge.id), places, size));
  const lonely = ids.filter((id) => !called.has(id));
  const columns = Math.max(COLUMNS, Math.floor((width + 28) / (size.width + 28)));
  const below = height ? height + size.down * 1.5 : 0;
  lonely.forEach((id, index) => {
    const column = index % columns;
    const x = column * (size.width + 28);
    const y = below + Math.floor(index / columns) * (size.height + size.down);
    places.set(id, { x, y, rank: column, at: 1e6 + Math.floor(index / columns) });
  });
  const lonely_rows = Math.ceil(lonely.length / columns);
  const across = Math.min(lonely.length, columns) * (size.width + 28) - 28;
  return {
    places,
    lines,
    width: Math.max(width, across, size.width),
    height: Math.max(lonely_rows ? below + lonely_rows * (size.height + size.down) - size.down : height, size.height),
  };
}

/** Ranks, and the links without circles: `turned` ones lead back in truth. */
function ranked(ids, edges) {
  const out = new Map(ids.map((id) => [id, []]));
  const into = new Map(ids.map((id) => [id, 0]));
  const links = new Map();
  for (const edge of edges) {
    if (edge.from === edge.to || links.has(`${edge.from}\n${edge.to}`)) continue;
    links.set(`${edge.from}\n${edge.to}`, { from: edge.from, to: edge.to });
    out.get(edge.from).push(edge.to);
    into.set(edge.to, into.get(edge.to) + 1);
  }
  const state = new Map();
  const finished = [];
  const starts = [...ids].sort((a, b) => into.get(a) - into.get(b));
  for (const start of starts) {
    if (state.has(start)) continue;
    const stack = [[start, 0]];
    state.set(start, 1);
    while (stack.length) {
      const top = stack[stack.length - 1];
      const next = out.get(top[0])[top[1]];
      top[1] += 1;
      if (next === undefined) {
        state.set(top[0], 2);
        finished.push(top[0]);
        stack.pop();
      } else if (!state.has(next)) {
        state.set(next, 1);
        stack.push([next, 0]);
      } else if (state.get(next) === 1) {
        links.get(`${top[0]}\n${next}`).turned = true;
      }
    }
  }
  const rank = new Map(ids.map((id) => [id, 0]));
  const forward = [...links.values()].map((link) => (link.turned ? [link.to, link.from] : [link.from, link.to]));
  const after = new Map(ids.map((id) => [id, []]));
  const before = new Map(ids.map((id) => [id, 0]));
  for (const [from, to] of forward) {
    after.get(from).push(to);
    before.set(to, before.get(to) + 1);
  }
  const ready = ids.filter((id) => before.get(id) === 0);
  while (ready.length) {
    const id = ready.shift();
    for (const to of after.get(id)) {
      rank.set(to, Math.max(rank.get(to), rank.get(id) + 1));
      before.set(to, before.get(to) - 1);
      if (before.get(to) === 0) ready.push(to);
    }
  }
  // A caller that nobody calls stands beside its first callee, not far left of it.
  for (const id of ids) {
    const has_caller = forward.some(([, to]) => to === id);
    if (!has_caller && after.get(id).length) rank.set(id, Math.min(...after.get(id).map((to) => rank.get(to))) - 1);
  }
  return { rank, links };
}

/** The ranks with everything that stands in them: services, and calls that pass. */
function filled(ids, rank, links, edges) {
  const rows = [];
  const item = (id, at) => {
    const one = { id, rank: at, left: [], right: [], y: 0 };
    (rows[at] ?? (rows[at] = [])).push(one);
    return one;
  };
  const items = new Map(ids.map((id) => [id, item(id, rank.get(id))]));
  for (let at = 0; at < rows.length; at += 1) rows[at] ??= [];
  const passed = new Map();
  let passing = 0;
  for (const [key, link] of links) {
    const [from, to] = link.turned ? [link.to, link.from] : [link.from, link.to];
    const way = [];
    let last = items.get(from);
    for (let at = rank.get(from) + 1; at < rank.get(to) && passing < PASSING_MAX; at += 1) {
      const one = item(`${key}\n${at}`, at);
      one.passing = true;
      passing += 1;
      join(last, one);
      way.push(one);
      last = one;
    }
    join(last, items.get(to));
    passed.set(key, { way, turned: link.turned });
  }
  const ways = new Map(edges.map((edge) => [edge.id, passed.get(`${edge.from}\n${edge.to}`)]));
  return { rows, ways };
}

function join(left, right) {
  left.right.push(right);
  right.left.push(left);
}

/** Sweeps forth and back; each rank by the mean place of its neighbours in the rank before. */
function ordered(rows) {
  const number = (row) => row.forEach((one, index) => { one.index = index; });
  rows.forEach(number);
  const mean = (list, old) => (list.length ? list.reduce((sum, one) => sum + one.index, 0) / list.length : old);
  for (let sweep = 0; sweep < 10; sweep += 1) {
    const forth = sweep % 2 === 0;
    const order = forth ? rows : [...rows].reverse();
    for (const row of order) {
      for (const one of row) one.wish = mean(forth ? one.left : one.right, one.index);
      row.sort((a, b) => a.wish - b.wish || a.index - b.index);
      number(row);
    }
  }
}

/** From order to places: everything moves towards its neighbours, as far as the others let it. */
function placed(rows, size) {
  const room = (above, one) => (above.passing || one.passing ? (above.passing && one.passing ? 26 : (size.height + size.down) * 0.72) : size.height + size.down);
  for (const row of rows) {
    let y = 0;
    row.forEach((one, index) => {
      if (index) y += room(row[index - 1], one);
      one.y = y;
    });
  }
  for (let sweep = 0; sweep < 14; sweep += 1) {
    const forth = sweep % 2 === 0;
    for (const row of forth ? rows : [...rows].reverse()) {
      const wishes = row.map((one) => {
        const near = forth ? one.left : one.right;
        const both = near.length ? near : [...one.left, ...one.right];
        return both.length ? both.reduce((sum, other) => sum + other.y, 0) / both.length : one.y;
      });
      settled(row, wishes, room);
    }
  }
  const all = rows.flat();
  const top = Math.min(0, ...all.map((one) => one.y));
  const places = new Map();
  rows.forEach((row, rank) => row.forEach((one, at) => {
    one.y -= top;
    one.x = rank * (size.width + size.across);
    places.set(one.id, { x: one.x, y: one.y, rank, at });
  }));
  const bottom = Math.max(0, ...all.map((one) => one.y));
  return {
    places,
    width: rows.length ? rows.length * (size.width + size.across) - size.across : 0,
    height: all.length ? bottom + size.height : 0,
  };
}

/** Places as near to the wishes as order and room allow: neighbours that collide move as one block. */
function settled(row, wishes, room) {
  const blocks = [];
  let offset = 0;
  row.forEach((one, index) => {
    if (index) offset += room(row[index - 1], one);
    let block = { sum: wishes[index] - offset, count: 1, first: index };
    while (blocks.length && blocks[blocks.length - 1].sum / blocks[blocks.length - 1].count > block.sum / block.count) {
      const above = blocks.pop();
      block = { sum: above.sum + block.sum, count: above.count + block.count, first: above.first };
    }
    blocks.push(block);
  });
  offset = 0;
  let at = 0;
  row.forEach((one, index) => {
    if (index) offset += room(row[index - 1], one);
    while (at + 1 < blocks.length && blocks[at + 1].first <= index) at += 1;
    one.y = blocks[at].sum / blocks[at].count + offset;
  });
}

/** The points that a call's line goes through, from the caller's box to the callee's. */
function line(edge, passed, places, size) {
  const from = places.get(edge.from);
  const to = places.get(edge.to);
  const middle = size.height / 2;
  if (edge.from === edge.to) {
    return { loop: true, points: [[from.x + size.width * 0.35, from.y], [from.x + size.width * 0.65, from.y]] };
  }
  const way = (passed?.way ?? []).flatMap((one) => [[one.x, one.y + middle], [one.x + size.width, one.y + middle]]);
  if (passed?.turned) {
    return { points: [[from.x, from.y + middle], ...way.reverse(), [to.x + size.width, to.y + middle]] };
  }
  return { points: [[from.x + size.width, from.y + middle], ...way, [to.x, to.y + middle]] };
}

/** Cubic pieces through the points, each level where it begins and ends. */
export function pieces({ points, loop }) {
  if (loop) {
    const [[x1, y1], [x2, y2]] = points;
    return [[[x1, y1], [x1 - 12, y1 - 46], [x2 + 12, y2 - 46], [x2, y2]]];
  }
  const all = [];
  for (let at = 0; at + 1 < points.length; at += 1) {
    const [[x1, y1], [x2, y2]] = [points[at], points[at + 1]];
    const bend = (x2 - x1) / 2;
    all.push([[x1, y1], [x1 + bend, y1], [x2 - bend, y2], [x2, y2]]);
  }
  return all;
}

/** Where a share of the way along a piece is. */
export function along([a, b, c, d], t) {
  const u = 1 - t;
  const mix = (at) => u * u * u * a[at] + 3 * u * u * t * b[at] + 3 * u * t * t * c[at] + t * t * t * d[at];
  return [mix(0), mix(1)];
}
