// Time from left to right: the session's state as a band, tool calls below it in as many lanes as ran side by side.
// Waiting outside of the work (idle, shut down, waiting for a person) is shortened, so that the work can be seen.

const BAND = 16;
const LANE = 15;
const AXIS = 22;
const MOST_LANES = 10;
const PAUSES = new Set(["idle", "shutdown", "waiting_for_user"]);

function makeTimeline(store, { onSelect }) {
  const box = byId("timeline");
  const svg = byId("timeline-svg");
  const line = { selected: -1 };
  let times = [];
  let spans = [];
  let lanes = 1;
  let from = 0;
  let to = 1;

  // Takes over what the store holds by now.
  line.measure = () => {
    const whole = from === 0 && to >= (times.at(-1) ?? 0);
    times = shortened(store);
    [spans, lanes] = spread(callSpans(store, times));
    if (whole) line.zoomAll();
    else draw();
  };

  line.select = (p) => {
    line.selected = p;
    const t = times[p];
    if (p >= 0 && (t < from || t > to)) move(t - (to - from) / 2);
    else draw();
  };

  line.zoomAll = () => zoom(0, Math.max(1, times.at(-1) ?? 1));
  line.zoomTurn = () => {
    const turn = store.turns[store.turn[line.selected] - 1] ?? store.turns.at(-1);
    if (!turn) return;
    const margin = Math.max(1, (times[turn.last] - times[turn.first]) / 40);
    zoom(times[turn.first] - margin, times[turn.last] + margin);
  };
  line.zoomBy = (factor, at = (from + to) / 2) => zoom(at - (at - from) * factor, at + (to - at) * factor);

  function zoom(start, end) {
    from = start;
    to = Math.max(start + 1, end);
    draw();
  }

  function move(start) {
    const last = times.at(-1) ?? 1;
    const begin = Math.max(Math.min(start, last - (to - from)), Math.min(0, from));
    zoom(begin, begin + to - from);
  }

  // --- drawing --------------------------------------------------------------------------------------------------------

  function draw() {
    const width = Math.max(200, box.clientWidth);
    const shown = Math.min(lanes, MOST_LANES);
    const height = BAND + 8 + shown * LANE + AXIS;
    const x = (t) => ((t - from) / (to - from)) * width;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const selected = line.selected >= 0 ? [s("line", {
      class: "now", x1: x(times[line.selected]), x2: x(times[line.selected]), y1: 0, y2: height - AXIS,
    })] : [];
    svg.replaceChildren(...band(width, x), ...calls(width, x), ...axis(width, height, x), ...selected);
  }

  // Pixel by pixel: the state that took most of it.
  function band(width, x) {
    const size = store.head.states.length;
    const share = new Float64Array(width * size);
    for (let p = firstAfter(from); p < store.count && (p === 0 || times[p - 1] <= to); p++) {
      if (p === 0) continue;
      const state = Math.floor(store.moves[p] / size);
      const left = Math.max(0, x(times[p - 1]));
      const right = Math.min(width, Math.max(x(times[p]), left + 0.001));
      for (let px = Math.floor(left); px < right; px++) {
        share[px * size + state] += Math.min(right, px + 1) - Math.max(left, px);
      }
    }
    const winner = (px) => {
      let best = -1;
      let most = 0;
      for (let state = 0; state < size; state++) {
        if (share[px * size + state] > most) [best, most] = [state, share[px * size + state]];
      }
      return best;
    };
    const made = [];
    for (let px = 0; px < width; ) {
      const state = winner(px);
      let end = px + 1;
      while (end < width && winner(end) === state) end++;
      if (state >= 0) made.push(s("rect", { class: `band ${store.head.states[state]}`, x: px, y: 0, width: end - px, height: BAND }));
      px = end;
    }
    return made;
  }

  // Calls that fall on the same pixels are drawn once, and a problem is never hidden by one that went well.
  function calls(width, x) {
    const drawn = new Map();
    for (const span of spans) {
      if (span.end < from || span.start > to || span.lane >= MOST_LANES) continue;
      const left = Math.max(-4, x(span.start));
      const right = Math.max(Math.min(width + 4, x(span.end)), left + 3);
      const key = right - left <= 4 ? `${span.lane} ${Math.floor(left / 4)}` : `${span.lane} ${span.p}`;
      const before = drawn.get(key);
      if (!before || (before.span.mark !== "problem" && span.mark === "problem")) drawn.set(key, { span, left, right });
    }
    return [...drawn.values()].map(({ span, left, right }) => {
      const y = BAND + 8 + span.lane * LANE;
      const wide = right - left > 44;
      return s("g", { class: `call ${span.mark}`, "data-place": span.p },
        s("title", {}, `${store.calls[span.call][2]}, ${spoken(store.statusOf(span.p))}, ${duration(store.took_us[span.p])}`),
        s("rect", { x: left, y, width: right - left, height: LANE - 3, rx: 2 }),
        wide ? s("text", { x: Math.max(left, 0) + 5, y: y + LANE - 6.5 }, cut(store.toolOf(span.p), right - Math.max(left, 0))) : "");
    });
  }

  function axis(width, height, x) {
    const y = height - AXIS;
    const every = niceStep((to - from) / Math.max(2, width / 110));
    const made = [s("line", { class: "rule", x1: 0, x2: width, y1: y + 0.5, y2: y + 0.5 })];
    for (let t = Math.ceil(from / every) * every; t <= to; t += every) {
      const anchor = x(t) < 30 ? "start" : x(t) > width - 30 ? "end" : "middle";
      made.push(s("line", { class: "rule", x1: x(t), x2: x(t), y1: y, y2: y + 4 }));
      made.push(s("text", { class: "tick", x: x(t), y: y + 16, "text-anchor": anchor }, duration(Math.max(0, t))));
    }
    return made;
  }

  // The first place whose time is not before `t`, found by halving.
  function firstAfter(t) {
    let low = 0;
    let high = times.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] < t) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // --- hands ----------------------------------------------------------------------------------------------------------

  const timeOf = (event) => from + ((event.clientX - box.getBoundingClientRect().left) / box.clientWidth) * (to - from);
  let grabbed = null;
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && Math.abs(event.deltaX) < Math.abs(event.deltaY)) return;
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) line.zoomBy(event.deltaY > 0 ? 1.25 : 0.8, timeOf(event));
    else move(from + (event.deltaX / box.clientWidth) * (to - from));
  }, { passive: false });
  box.addEventListener("pointerdown", (event) => {
    grabbed = { x: event.clientX, from, moved: false };
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", (event) => {
    if (!grabbed) return;
    grabbed.moved ||= Math.abs(event.clientX - grabbed.x) > 3;
    if (grabbed.moved) move(grabbed.from - ((event.clientX - grabbed.x) / box.clientWidth) * (to - from));
  });
  box.addEventListener("pointerup", (event) => {
    if (grabbed && !grabbed.moved) {
      const hit = document.elementFromPoint(event.clientX, event.clientY)?.closest("[data-place]");
      onSelect(hit ? Number(hit.dataset.place) : Math.min(firstAfter(timeOf(event)), store.count - 1));
    }
    grabbed = null;
  });
  box.addEventListener("keydown", (event) => {
    const act = {
      ArrowLeft: () => move(from - (to - from) / 8), ArrowRight: () => move(from + (to - from) / 8),
      "+": () => line.zoomBy(0.8), "-": () => line.zoomBy(1.25), 0: line.zoomAll,
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    act();
  });
  new ResizeObserver(draw).observe(box);
  return line;
}

// The time of each record in µs from the first, pauses cut so that together they take at most a third.
function shortened(store) {
  const size = store.head.states.length;
  const pause = store.head.states.map((state) => PAUSES.has(state));
  let work = 0;
  let pauses = 0;
  for (let p = 1; p < store.count; p++) {
    if (!pause[Math.floor(store.moves[p] / size)]) work += store.step_us[p];
    else if (store.step_us[p]) pauses++;
  }
  // A history whose clock stood still, as an imported one: each record gets the same room.
  if (!work && !pauses) return Float64Array.from({ length: store.count }, (_, p) => p);
  const longest = Math.max(1, work / (2 * Math.max(1, pauses)));
  const times = new Float64Array(store.count);
  for (let p = 1; p < store.count; p++) {
    const step = store.step_us[p];
    times[p] = times[p - 1] + (pause[Math.floor(store.moves[p] / size)] ? Math.min(step, longest) : step);
  }
  return times;
}

// Every run of a call that has an end: from when it must have begun, at the earliest when it was asked for.
function callSpans(store, times) {
  const spans = [];
  for (let p = 0; p < store.count; p++) {
    if (store.status[p] < 0 || store.call[p] < 0) continue;
    const asked = store.calls[store.call[p]][4] - 1;
    const start = Math.max(times[asked], times[p] - store.took_us[p]);
    spans.push({ p, call: store.call[p], start, end: times[p], mark: store.markOf(p), lane: 0 });
  }
  return spans.sort((a, b) => a.start - b.start || a.p - b.p);
}

// Gives each span the first lane that is free when it starts.
function spread(spans) {
  const free = [];
  for (const span of spans) {
    let lane = free.findIndex((end) => end <= span.start);
    if (lane < 0) lane = free.length;
    free[lane] = Math.max(span.end, span.start + 1e-9);
    span.lane = lane;
  }
  return [spans, Math.max(1, free.length)];
}

function niceStep(least) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(least, 1)));
  return [1, 2, 5, 10].map((factor) => factor * unit).find((step) => step >= least);
}

function cut(text, width) {
  const fits = Math.floor((width - 10) / 6.4);
  return text.length <= fits ? text : `${text.slice(0, Math.max(1, fits - 1))}…`;
}
