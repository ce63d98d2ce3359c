// The list of records: only the rows on screen exist. Grouped by turn, and within a turn by call where a call has
// several records; a group opens and closes. The keyboard works as in any tree.

const ROW = 30;
const SPARE = 8;
const MOST_PRINTED = 2000;
const [RECORD, TURN, CALL] = [0, 1, 2];
const KINDS = ["record", "turn", "call"];

function makeList(store, { onSelect }) {
  const view = byId("rows");
  const sheet = byId("sheet");
  const list = { places: [], length: 0, selected: -1, grouped: true };
  const closed = { [TURN]: new Set(), [CALL]: new Set() };
  // Row by row: what it is (a record, a turn, a call), which one, and how deep it stands.
  let kinds = new Uint8Array(0);
  let refs = new Int32Array(0);
  let levels = new Uint8Array(0);
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
      closed[TURN].delete(store.turn[p]);
      closed[CALL].delete(store.call[p]);
      build();
    }
    active = rowOfPlace(p);
    reveal(active);
    if (!quiet) onSelect(p);
  };

  function rowOfPlace(p) {
    return p >= 0 && p < rowOf.length ? rowOf[p] : -1;
  }

  function build() {
    const most = list.places.length + store.turns.length + store.calls.length;
    [kinds, refs, levels] = [new Uint8Array(most), new Int32Array(most), new Uint8Array(most)];
    rowOf = new Int32Array(store.count).fill(-1);
    list.length = 0;
    if (list.grouped) putGroups();
    else for (const p of list.places) put(RECORD, p, 1);
    active = rowOfPlace(list.selected);
    sheet.style.height = `${list.length * ROW}px`;
    paint();
  }

  function put(kind, ref, level) {
    if (kind === RECORD) rowOf[ref] = list.length;
    kinds[list.length] = kind;
    refs[list.length] = ref;
    levels[list.length++] = level;
  }

  // A turn is a group, and so is a call that has several records here; it stands where the first of them does.
  function putGroups() {
    const ofCall = new Map();
    for (const p of list.places) {
      if (store.call[p] < 0) continue;
      const group = ofCall.get(store.call[p]);
      if (group) group.push(p);
      else ofCall.set(store.call[p], [p]);
    }
    let turn = 0;
    for (const p of list.places) {
      if (store.turn[p] !== turn) {
        turn = store.turn[p];
        if (turn) put(TURN, turn, 1);
      }
      if (closed[TURN].has(turn)) continue;
      const group = ofCall.get(store.call[p]);
      if (!group || group.length === 1) put(RECORD, p, turn ? 2 : 1);
      else if (group[0] === p) {
        put(CALL, store.call[p], 2);
        if (!closed[CALL].has(store.call[p])) for (const q of group) put(RECORD, q, 3);
      }
    }
  }

  // --- painting -------------------------------------------------------------------------------------------------------

  function paint(everything = false) {
    const first = everything ? 0 : Math.max(0, Math.floor(view.scrollTop / ROW) - SPARE);
    const fit = everything ? MOST_PRINTED : Math.ceil(view.clientHeight / ROW) + 2 * SPARE;
    const last = Math.min(list.length, first + fit);
    const made = [];
    for (let index = first; index < last; index++) made.push(element(index));
    sheet.replaceChildren(...made);
    if (active >= first && active < last) view.setAttribute("aria-activedescendant", `row-${active}`);
    else view.removeAttribute("aria-activedescendant");
    byId("nothing").hidden = list.length > 0;
  }

  function element(index) {
    const [kind, ref] = [kinds[index], refs[index]];
    const made = h("div", {
      class: `row ${KINDS[kind]} level-${levels[index]}`, role: "treeitem", id: `row-${index}`,
      "aria-level": levels[index], "aria-posinset": index + 1, "aria-setsize": list.length,
      "aria-selected": String(index === active), "data-row": index, "data-seq": kind === RECORD ? ref + 1 : null,
      "aria-expanded": kind === RECORD ? null : String(!closed[kind].has(ref)),
    }, ...[recordCells, turnCells, callCells][kind](ref));
    made.style.top = `${index * ROW}px`;
    const mine = list.selected >= 0 && store.call[list.selected] >= 0;
    if (mine && kind === RECORD && store.call[ref] === store.call[list.selected]) made.classList.add("kin");
    return made;
  }

  function turnCells(number) {
    const turn = store.turns[number - 1];
    const facts = [turn.calls ? plural(turn.calls, "call") : "", duration(turn.us)].filter(Boolean).join(" · ");
    return [
      h("span", { class: "twist", "aria-hidden": "true" }),
      h("span", { class: `dot ${turn.mark}`, title: turn.mark }),
      h("span", { class: "name" }, `Turn ${number}`),
      h("span", { class: "words" }, turn.words),
      h("span", { class: "time" }, facts),
    ];
  }

  function callCells(call) {
    const last = store.lastOf(call);
    return [
      h("span", { class: "twist", "aria-hidden": "true" }),
      h("span", { class: `dot ${store.markOf(last)}`, title: spoken(store.statusOf(last) || "open") }),
      h("span", { class: "words" }, store.calls[call][2]),
      h("span", { class: "time" }, store.took_us[last] ? duration(store.took_us[last]) : ""),
    ];
  }

  function recordCells(p) {
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
    if (!list.length) return;
    active = Math.max(0, Math.min(list.length - 1, index));
    if (kinds[active] === RECORD) {
      list.selected = refs[active];
      onSelect(list.selected);
    }
    reveal(active);
  }

  const isGroup = (index) => index >= 0 && kinds[index] !== RECORD;
  const isOpen = (index) => !closed[kinds[index]].has(refs[index]);

  function setOpen(index, open) {
    if (open) closed[kinds[index]].delete(refs[index]);
    else closed[kinds[index]].add(refs[index]);
    build();
    active = index;
    reveal(active);
  }

  function parentOf(index) {
    let at = index - 1;
    while (at >= 0 && levels[at] >= levels[index]) at--;
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
    End: () => go(list.length - 1),
    ArrowLeft: () => {
      if (isGroup(active) && isOpen(active)) setOpen(active, false);
      else if (active >= 0 && parentOf(active) >= 0) go(parentOf(active));
    },
    ArrowRight: () => {
      if (isGroup(active) && !isOpen(active)) setOpen(active, true);
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
    if (isGroup(index)) setOpen(index, !isOpen(index));
    else go(index);
  });
  new ResizeObserver(() => paint()).observe(view);
  window.addEventListener("beforeprint", () => paint(true));
  window.addEventListener("afterprint", () => paint());
  return list;
}
