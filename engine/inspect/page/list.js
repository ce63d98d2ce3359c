// The list of records: only the rows on screen exist. Grouped by turn, and within a turn by call where a call has
// several records; a group opens and closes. The keyboard works as in any tree.

const ROW = 30;
const SPARE = 8;

function makeList(store, { onSelect }) {
  const view = byId("rows");
  const sheet = byId("sheet");
  const list = { places: [], rows: [], selected: -1, grouped: true };
  const closed = new Set();
  let rowOf = new Int32Array(0);
  let active = -1;

  list.show = (places) => {
    list.places = places;
    build();
  };

  list.toggleGroups = (grouped) => {
    list.grouped = grouped;
    build();
    reveal(rowOfPlace(list.selected));
  };

  // Selects the record at a place, opening the groups that hold it.
  list.select = (p, { quiet = false } = {}) => {
    list.selected = p;
    if (p >= 0 && rowOf[p] < 0) {
      closed.delete(`turn ${store.turn[p]}`);
      closed.delete(`call ${store.call[p]}`);
      build();
    }
    active = rowOfPlace(p);
    reveal(active);
    if (!quiet) onSelect(p);
  };

  list.refresh = () => paint();

  function rowOfPlace(p) {
    return p >= 0 && p < rowOf.length ? rowOf[p] : -1;
  }

  function build() {
    const rows = [];
    rowOf = new Int32Array(store.count).fill(-1);
    const put = (row) => rows.push(row);
    const record = (p, level) => {
      rowOf[p] = rows.length;
      put({ kind: "record", p, level });
    };
    if (list.grouped) {
      for (let i = 0; i < list.places.length; ) i = putTurn(i, put, record);
    } else {
      for (const p of list.places) record(p, 1);
    }
    list.rows = rows;
    active = rowOfPlace(list.selected);
    sheet.style.height = `${rows.length * ROW}px`;
    paint();
  }

  function putTurn(from, put, record) {
    const number = store.turn[list.places[from]];
    let to = from;
    while (to < list.places.length && store.turn[list.places[to]] === number) to++;
    const places = list.places.slice(from, to);
    if (number === 0) {
      for (const p of places) record(p, 1);
      return to;
    }
    const key = `turn ${number}`;
    put({ kind: "turn", key, number, level: 1, size: places.length });
    if (closed.has(key)) return to;
    const ofCall = new Map();
    for (const p of places) if (store.call[p] >= 0) ofCall.set(store.call[p], [...(ofCall.get(store.call[p]) ?? []), p]);
    for (const p of places) {
      const group = ofCall.get(store.call[p]);
      if (!group || group.length === 1) record(p, 2);
      else if (group[0] === p) {
        const callKey = `call ${store.call[p]}`;
        put({ kind: "call", key: callKey, call: store.call[p], last: group.at(-1), level: 2, size: group.length });
        if (!closed.has(callKey)) for (const q of group) record(q, 3);
      }
    }
    return to;
  }

  // --- painting -------------------------------------------------------------------------------------------------------

  function paint(everything = false) {
    const first = everything ? 0 : Math.max(0, Math.floor(view.scrollTop / ROW) - SPARE);
    const fit = Math.ceil(view.clientHeight / ROW) + 2 * SPARE;
    const last = everything ? Math.min(list.rows.length, 2000) : Math.min(list.rows.length, first + fit);
    const made = [];
    for (let index = first; index < last; index++) made.push(element(list.rows[index], index));
    sheet.replaceChildren(...made);
    if (active >= first && active < last) view.setAttribute("aria-activedescendant", `row-${active}`);
    else view.removeAttribute("aria-activedescendant");
    byId("nothing").hidden = list.rows.length > 0;
  }

  function element(row, index) {
    const made = h("div", {
      class: `row ${row.kind} level-${row.level}`, role: "treeitem", id: `row-${index}`, "aria-level": row.level,
      "aria-posinset": index + 1, "aria-setsize": list.rows.length, "aria-selected": String(index === active),
      "aria-expanded": row.kind === "record" ? null : String(!closed.has(row.key)), "data-row": index,
    }, ...{ turn: turnCells, call: callCells, record: recordCells }[row.kind](row));
    made.style.top = `${index * ROW}px`;
    if (row.kind === "record") made.dataset.seq = row.p + 1;
    const mine = list.selected >= 0 && store.call[list.selected] >= 0;
    if (mine && row.kind === "record" && store.call[row.p] === store.call[list.selected]) made.classList.add("kin");
    return made;
  }

  function turnCells(row) {
    const turn = store.turns[row.number - 1];
    const facts = [turn.calls ? plural(turn.calls, "call") : "", duration(turn.us)].filter(Boolean).join(" · ");
    return [
      h("span", { class: "twist", "aria-hidden": "true" }),
      h("span", { class: `dot ${turn.mark}`, title: turn.mark }),
      h("span", { class: "name" }, `Turn ${row.number}`),
      h("span", { class: "words" }, turn.words),
      h("span", { class: "time" }, facts),
    ];
  }

  function callCells(row) {
    const took = store.took_us[row.last];
    return [
      h("span", { class: "twist", "aria-hidden": "true" }),
      h("span", { class: `dot ${store.markOf(row.last)}`, title: spoken(store.statusOf(row.last) || "open") }),
      h("span", { class: "words" }, store.calls[row.call][2]),
      h("span", { class: "time" }, took ? duration(took) : plural(row.size, "record")),
    ];
  }

  function recordCells(row) {
    const p = row.p;
    return [
      h("span", { class: "seq" }, String(p + 1)),
      h("span", { class: `state ${store.dest(p)}`, title: `leads to ${spoken(store.dest(p))}` }),
      h("span", { class: "trigger" }, spoken(store.triggerOf(p))),
      h("span", { class: `words ${store.markOf(p)}` }, store.words[p]),
      h("span", { class: "time" }, store.step_us[p] ? `+${duration(store.step_us[p])}` : ""),
    ];
  }

  function reveal(index) {
    if (index >= 0) {
      const top = index * ROW;
      if (top < view.scrollTop) view.scrollTop = Math.max(0, top - 2 * ROW);
      else if (top + ROW > view.scrollTop + view.clientHeight) view.scrollTop = top - view.clientHeight + 3 * ROW;
    }
    paint();
  }

  // --- moving ---------------------------------------------------------------------------------------------------------

  function go(index) {
    if (!list.rows.length) return;
    active = Math.max(0, Math.min(list.rows.length - 1, index));
    const row = list.rows[active];
    if (row.kind === "record") {
      list.selected = row.p;
      onSelect(row.p);
    }
    reveal(active);
  }

  function setOpen(index, open) {
    const row = list.rows[index];
    if (row?.kind === "record" || !row) return;
    if (open) closed.delete(row.key);
    else closed.add(row.key);
    build();
    active = index;
    reveal(active);
  }

  function parentOf(index) {
    let at = index - 1;
    while (at >= 0 && list.rows[at].level >= list.rows[index].level) at--;
    return at;
  }

  const page = () => Math.max(1, Math.floor(view.clientHeight / ROW) - 1);
  const keys = {
    ArrowDown: () => go(active + 1),
    ArrowUp: () => go(active - 1),
    j: () => go(active + 1),
    k: () => go(active - 1),
    PageDown: () => go(active + page()),
    PageUp: () => go(active - page()),
    Home: () => go(0),
    End: () => go(list.rows.length - 1),
    ArrowLeft: () => {
      const row = list.rows[active];
      if (row && row.kind !== "record" && !closed.has(row.key)) setOpen(active, false);
      else if (row && parentOf(active) >= 0) go(parentOf(active));
    },
    ArrowRight: () => {
      const row = list.rows[active];
      if (row && row.kind !== "record" && closed.has(row.key)) setOpen(active, true);
      else go(active + 1);
    },
    Enter: () => byId("tab-record").focus(),
  };

  view.addEventListener("keydown", (event) => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  view.addEventListener("scroll", () => paint(), { passive: true });
  view.addEventListener("click", (event) => {
    const index = Number(event.target.closest("[data-row]")?.dataset.row ?? -1);
    if (index < 0) return;
    if (list.rows[index].kind === "record") go(index);
    else setOpen(index, closed.has(list.rows[index].key));
  });
  new ResizeObserver(() => paint()).observe(view);
  window.addEventListener("beforeprint", () => paint(true));
  window.addEventListener("afterprint", () => paint());
  return list;
}
