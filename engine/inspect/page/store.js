// The history, as Python encoded it: columns for what every row needs, lines of JSON for what one record needs.
// Records are addressed by their place, from 0; the record at place p has the sequence p + 1.

function makeStore(head) {
  const columns = ["mono", "step_us", "trigger", "moves", "turn", "call", "mark", "status", "took_us"];
  const lines = ["at", "words", "events", "changes", "messages"];
  const lists = ["calls", "usage", "guesses", "triggers", "tools", "paths"];
  const store = { head, count: 0, hashes: "", broken: null, turns: [] };
  for (const name of [...columns, ...lines, ...lists]) store[name] = [];

  const keyframes = new Map([[0, { id: head.session, seq: 0, state: head.states[0], transcript: 0 }]]);
  const events = new Map();
  const lastOf = new Map();
  const haystacks = [];

  store.append = (chunk) => {
    if (!chunk.count) return;
    const add = (name, more) => (store[name] = store[name].length ? store[name].concat(more) : more);
    for (const name of [...columns, ...lists]) add(name, chunk[name]);
    for (const name of ["at", "words", "events"]) add(name, chunk[name].split("\n"));
    for (const name of ["changes", "messages"]) if (chunk[name]) add(name, chunk[name].split("\n"));
    for (const [seq, text] of chunk.keyframes) keyframes.set(seq, { ...resolve(JSON.parse(text)), seq });
    haystacks.push({ from: store.count, text: chunk.events, lower: null });
    store.hashes += chunk.hashes;
    store.broken ??= chunk.broken;
    for (let p = store.count; p < store.count + chunk.count; p++) countTurn(p);
    store.count += chunk.count;
  };

  // --- one record ----------------------------------------------------------------------------------------------------

  store.source = (p) => head.states[Math.floor(store.moves[p] / head.states.length)];
  store.dest = (p) => head.states[store.moves[p] % head.states.length];
  store.triggerOf = (p) => store.triggers[store.trigger[p]];
  store.markOf = (p) => head.marks[store.mark[p]];
  store.statusOf = (p) => (store.status[p] < 0 ? "" : head.statuses[store.status[p]]);
  store.toolOf = (p) => (store.call[p] < 0 ? "" : store.tools[store.calls[store.call[p]][1]]);
  // The place of the last record about a call that is known by now.
  store.lastOf = (call) => lastOf.get(call) ?? store.calls[call][4] - 1;
  store.hash = (p) => store.hashes.slice(64 * p, 64 * p + 64);
  store.event = (p) => parsed(p).event;
  store.effects = (p) => parsed(p).effects;

  function parsed(p) {
    let found = events.get(p);
    if (!found) {
      const [event, effects] = store.events[p].split("\t");
      found = { event: JSON.parse(event), effects: JSON.parse(effects) };
      if (events.size > 2000) events.clear();
      events.set(p, found);
    }
    return found;
  }

  // The very line that the journal holds: canonical JSON, ASCII, members in order.
  store.line = (p) => {
    const [event, effects] = store.events[p].split("\t").map(ascii);
    const previous = p === 0 ? "0".repeat(64) : store.hash(p - 1);
    let mono = 0n;
    for (let q = 0; q <= p; q++) mono += BigInt(store.mono[q]);
    return (
      `{"at":"${store.at[p]}","dest":"${store.dest(p)}","effects":${effects},"event":${event},"hash":"${store.hash(p)}",` +
      `"mono_ns":${mono},"prev":"${previous}","seq":${p + 1},"session":"${head.session}",` +
      `"source":"${store.source(p)}","trigger":"${store.triggerOf(p)}","v":1}`
    );
  };

  // --- states --------------------------------------------------------------------------------------------------------

  // The state right after the record with this sequence; at 0, before the first. Null where the history does not hold.
  store.stateAt = (seq) => {
    if (store.broken && seq >= store.broken.seq) return null;
    let from = seq;
    while (!keyframes.has(from)) from--;
    let state = keyframes.get(from);
    for (let p = from; p < seq; p++) state = advance(state, p);
    keyframes.set(seq, state);
    if (keyframes.size > 4000) for (const key of keyframes.keys()) if (key % head.keyframe) keyframes.delete(key);
    return state;
  };

  // What the record at this place changed, as paths with the values before and after.
  store.changesAt = (p) => {
    const before = store.stateAt(p);
    const after = store.stateAt(p + 1);
    return after ? differences(before, after) : null;
  };

  store.messagesAt = (state) => store.messages.slice(0, state.transcript ?? 0).map((text) => resolve(JSON.parse(text)));
  store.message = (index) => resolve(JSON.parse(store.messages[index]));

  function advance(state, p) {
    let next = state;
    for (const [place, value, how] of JSON.parse(store.changes[p])) {
      const path = store.paths[place].split("/");
      if (value === undefined) next = replaced(next, path, 0, undefined);
      else if (how === 1) next = replaced(next, path, 0, [...(at(next, path) ?? []), ...value.map(resolve)]);
      else if (how === 2) next = replaced(next, path, 0, at(next, value.split("/")));
      else if (how === 3) next = replaced(next, path, 0, [...(at(next, path) ?? []), ...at(next, value.split("/"))]);
      else next = replaced(next, path, 0, resolve(value));
    }
    return { ...next, seq: p + 1 };
  }

  // "~12/reply/text" is what stands there in the event of record 12; "~~" is one plain "~".
  function resolve(value) {
    if (typeof value === "string") {
      if (value[0] !== "~") return value;
      if (value[1] === "~") return value.slice(1);
      const [seq, ...path] = value.slice(1).split("/");
      return at(store.event(Number(seq) - 1), path);
    }
    if (Array.isArray(value)) return value.map(resolve);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item)]));
  }

  // --- what the whole adds up to ------------------------------------------------------------------------------------

  const isEnd = (p) => store.status[p] >= 0 && store.triggers[store.trigger[p]] === "tool_finished";

  function countTurn(p) {
    if (store.call[p] >= 0) lastOf.set(store.call[p], p);
    const number = store.turn[p];
    if (number === 0) return;
    let turn = store.turns.at(-1);
    if (turn?.number !== number) {
      turn = { number, first: p, last: p, mark: "plain", words: store.words[p], us: 0, calls: 0 };
      store.turns.push(turn);
    } else turn.us += store.step_us[p];
    turn.last = p;
    turn.mark = store.markOf(p);
    if (isEnd(p)) turn.calls += 1;
  }

  // For each move between states how often it happened: "idle processing" → 12.
  store.moveCounts = () => {
    const counts = new Map();
    for (let p = 0; p < store.count; p++) counts.set(store.moves[p], (counts.get(store.moves[p]) ?? 0) + 1);
    return new Map([...counts].map(([move, count]) => {
      const size = head.states.length;
      return [`${head.states[Math.floor(move / size)]} ${head.states[move % size]}`, count];
    }));
  };

  // The records' stored text in lower case, made once: what words of a filter are looked for in.
  store.haystacks = () => {
    for (const stack of haystacks) stack.lower ??= stack.text.toLowerCase();
    return haystacks;
  };

  return store;
}

function ascii(text) {
  return text.replace(/[^\x00-\x7f]/g, (unit) => "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0"));
}

function at(value, path) {
  for (const key of path) value = value?.[key];
  return value;
}

// A copy of a value with something else at one place; what is not on the way there is shared.
function replaced(value, path, depth, item) {
  if (depth === path.length) return item;
  const copy = Array.isArray(value) ? [...value] : { ...value };
  const key = path[depth];
  if (depth === path.length - 1 && item === undefined) delete copy[key];
  else copy[key] = replaced(copy[key], path, depth + 1, item);
  return copy;
}

function differences(before, after, path = "") {
  if (before === after) return [];
  const isTree = (value) => value !== null && typeof value === "object";
  if (!isTree(before) || !isTree(after) || Array.isArray(before) !== Array.isArray(after)) {
    return [{ path, before, after }];
  }
  const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...keys].flatMap((key) => differences(before[key], after[key], path ? `${path}/${key}` : key));
}
