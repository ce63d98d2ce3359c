// The state machine with what this history made of it: every move of the table, those that happened in ink with their
// number. The places are drawn by hand, the arrows follow from the rows.

const PLACES = {
  idle: [110, 180], processing: [352, 180], generating_response: [612, 66], executing_tools: [872, 180],
  waiting_for_user: [760, 336], error: [464, 336], shutdown: [110, 336],
};
const HALF = [84, 22];

function drawDiagram(store, onState) {
  const counts = store.moveCounts();
  const moves = new Map();
  for (const [trigger, source, dest] of store.head.rows) {
    const key = `${source} ${dest}`;
    moves.set(key, [...(moves.get(key) ?? []), trigger]);
  }
  const entered = new Map(store.head.states.map((state) => [state, 0]));
  for (const [key, times] of counts) {
    const [source, dest] = key.split(" ");
    if (source !== dest) entered.set(dest, entered.get(dest) + times);
  }
  const most = Math.max(1, ...counts.values());
  const arrows = [...moves.keys()].filter((key) => new Set(key.split(" ")).size === 2)
    .sort((a, b) => (counts.get(a) ?? 0) - (counts.get(b) ?? 0));
  byId("diagram").replaceChildren(
    s("defs", {}, ["seen", "unseen"].map((kind) => s("marker", {
      id: `tip-${kind}`, class: kind, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8,
      markerUnits: "userSpaceOnUse", orient: "auto-start-reverse",
    }, s("path", { d: "M0 0.8 L7 4 L0 7.2 z" })))),
    ...arrows.map((key) => arrow(key, counts.get(key) ?? 0, most)),
    ...arrows.filter((key) => counts.has(key)).map((key) => label(key, counts.get(key))),
    ...store.head.states.map((state) => node(state, entered.get(state), counts.get(`${state} ${state}`) ?? 0, onState)));
  byId("moves").replaceChildren(movesTable(store, counts));
}

function arrow(key, times, most) {
  const { path } = curve(key);
  const width = times ? 1.25 + 2.5 * (Math.log1p(times) / Math.log1p(most)) : 0.75;
  const kind = times ? "seen" : "unseen";
  return s("path", { class: `arrow ${kind}`, d: path, "stroke-width": width, "marker-end": `url(#tip-${kind})`, "data-move": key, "data-count": times });
}

function label(key, times) {
  const { middle } = curve(key);
  return s("text", { class: "count", x: middle[0], y: middle[1] + 4, "text-anchor": "middle" }, number(times));
}

function node(state, entered, inside, onState) {
  const [x, y] = PLACES[state];
  const seen = entered + inside > 0 || state === "idle";
  const says = `${spoken(state)}: entered ${plural(entered, "time")}, ${plural(inside, "record")} within`;
  return s("g", {
    class: `node ${seen ? "seen" : "unseen"}`, role: "button", tabindex: 0, "aria-label": `${says}. Show its records`,
    onclick: () => onState(state), onkeydown: (event) => event.key === "Enter" && onState(state),
  },
    s("title", {}, says),
    s("rect", { x: x - HALF[0], y: y - HALF[1], width: 2 * HALF[0], height: 2 * HALF[1], rx: 10 }),
    s("circle", { class: `state ${state}`, cx: x - HALF[0] + 15, cy: y, r: 4 }),
    s("text", { x: x + 7, y: y + (seen && entered + inside ? -1 : 4), "text-anchor": "middle" }, spoken(state)),
    seen && entered + inside ? s("text", { class: "inside", x: x + 7, y: y + 13, "text-anchor": "middle" },
      inside ? `${number(entered)} in · ${number(inside)} within` : `${number(entered)} in`) : "");
}

// A bow to the right of its way, so that there and back lie side by side; from edge to edge of the two boxes.
function curve(key) {
  const [a, b] = key.split(" ").map((state) => PLACES[state]);
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const length = Math.hypot(dx, dy);
  const bow = 12 + length * 0.055;
  const control = [(a[0] + b[0]) / 2 - (dy / length) * bow * 2, (a[1] + b[1]) / 2 + (dx / length) * bow * 2];
  const start = edge(a, control);
  const end = edge(b, control);
  const middle = [0, 1].map((i) => start[i] / 4 + control[i] / 2 + end[i] / 4);
  return { path: `M${start.join(" ")} Q${control.join(" ")} ${end.join(" ")}`, middle };
}

// Where the way from the middle of a box towards a point leaves the box.
function edge([x, y], [tx, ty]) {
  const [dx, dy] = [tx - x, ty - y];
  const scale = Math.min((HALF[0] + 3) / Math.abs(dx || 1e-9), (HALF[1] + 3) / Math.abs(dy || 1e-9));
  return [Math.round(10 * (x + dx * scale)) / 10, Math.round(10 * (y + dy * scale)) / 10];
}

function movesTable(store, counts) {
  const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([key, times]) => {
    const [source, dest] = key.split(" ");
    return [spoken(source), source === dest ? "stays" : spoken(dest), number(times)];
  });
  return table(["from", "to", "records"], rows, ["", "", "figure"]);
}
