// What a reader types into the filter, and which records it leaves. `engine/inspect/filtering.py` says the same in
// Python: words are looked for in a record's stored text, in its tool's name and in the state it leads to; `tool:`,
// `state:`, `trigger:`, `status:`, `turn:`, `call:` and `is:` ask for one thing. All terms must hold; `-` turns one
// round; quotes keep words together.

function parseFilter(text) {
  const terms = [];
  for (const [, minus, key, quoted, plain] of text.matchAll(/(-?)(?:([a-z]+):)?(?:"([^"]*)"?|(\S+))/g)) {
    const value = quoted ?? plain;
    if (value === "") continue;
    const known = key === undefined || filterKeys.has(key);
    terms.push({ not: minus === "-", key: known ? key : undefined, value: known ? value : `${key}:${value}` });
  }
  return terms;
}

const filterKeys = new Set(["tool", "state", "trigger", "status", "turn", "call", "is"]);

// Returns the places of the records that pass, in order.
function applyFilter(store, text) {
  const terms = parseFilter(text);
  const pass = new Uint8Array(store.count).fill(1);
  for (const term of terms) {
    const hit = term.key === undefined ? wordHits(store, term.value) : fieldHits(store, term.key, term.value);
    const wanted = term.not ? 0 : 1;
    for (let p = 0; p < pass.length; p++) if (hit[p] !== wanted) pass[p] = 0;
  }
  const places = [];
  for (let p = 0; p < pass.length; p++) if (pass[p]) places.push(p);
  return places;
}

function fieldHits(store, key, value) {
  const hit = new Uint8Array(store.count);
  const wanted = value.toLowerCase();
  const places = (names) => new Set(names.flatMap((name, place) => (name.toLowerCase() === wanted ? [place] : [])));
  const mark = (column, found) => {
    for (let p = 0; p < hit.length; p++) if (found.has(column[p])) hit[p] = 1;
    return hit;
  };
  const states = store.head.states;
  switch (key) {
    case "tool":
      return mark(store.call, callsOf(store, places(store.tools)));
    case "call":
      return mark(store.call, new Set(store.calls.flatMap(([id], place) => (id.toLowerCase() === wanted ? [place] : []))));
    case "state":
      return mark(store.moves, new Set(Array.from({ length: states.length ** 2 }, (_, move) => move)
        .filter((move) => states[move % states.length] === wanted)));
    case "trigger":
      return mark(store.trigger, places(store.triggers));
    case "status":
      return mark(store.status, places(store.head.statuses));
    case "turn":
      return mark(store.turn, new Set(/^(0|[1-9][0-9]*)$/.test(value) ? [Number(value)] : []));
    default:
      return mark(store.mark, places(store.head.marks));
  }
}

// The calls whose tool is one of these.
function callsOf(store, tools) {
  const found = new Set();
  store.calls.forEach((call, place) => tools.has(call[1]) && found.add(place));
  return found;
}

function wordHits(store, word) {
  const hit = new Uint8Array(store.count);
  const needle = JSON.stringify(word).slice(1, -1).toLowerCase();
  for (const stack of store.haystacks()) {
    const text = stack.lower;
    let p = stack.from;
    let start = 0;
    for (let found = text.indexOf(needle); found >= 0; ) {
      for (let end = text.indexOf("\n", start); end >= 0 && end < found; end = text.indexOf("\n", start)) {
        start = end + 1;
        p++;
      }
      hit[p] = 1;
      const next = text.indexOf("\n", found);
      if (next < 0) break;
      start = next + 1;
      p++;
      found = text.indexOf(needle, start);
    }
  }
  const plain = word.toLowerCase();
  const tools = store.tools.map((name) => name.toLowerCase().includes(plain));
  const states = store.head.states.map((name) => name.includes(plain));
  for (let p = 0; p < hit.length; p++) {
    if (states[store.moves[p] % states.length]) hit[p] = 1;
    else if (store.call[p] >= 0 && tools[store.calls[store.call[p]][1]]) hit[p] = 1;
  }
  return hit;
}
