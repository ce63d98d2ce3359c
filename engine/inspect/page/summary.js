// What a history adds up to: usage and cost by turn, tools, and what a predictor would have known.

const MOST_ROWS = 500;

function showUsage(store, onPlace) {
  const turns = new Map();
  const total = { input: 0, output: 0, cached: 0, pico: 0n, replies: store.usage.length };
  for (const [seq, input, output, cached, pico] of store.usage) {
    const one = turns.get(store.turn[seq - 1]) ?? { input: 0, output: 0, cached: 0, pico: 0n, replies: 0 };
    for (const sum of [one, total]) {
      sum.input += input;
      sum.output += output;
      sum.cached += cached;
      sum.pico += BigInt(pico);
    }
    one.replies += 1;
    turns.set(store.turn[seq - 1], one);
  }
  const costs = total.pico > 0n;
  const most = Math.max(1, ...[...turns.values()].map((one) => one.input + one.output));
  const heads = ["turn", "prompt", "replies", "calls", "input", "cached", "output", ...(costs ? ["cost"] : []), "time", ""];
  const kinds = ["figure", "wide", "figure", "figure", "figure", "figure", "figure", ...(costs ? ["figure"] : []), "figure", "bar-cell"];
  const none = { input: 0, output: 0, cached: 0, pico: 0n, replies: 0 };
  const rows = store.turns.slice(0, MOST_ROWS).map((turn) => {
    const one = turns.get(turn.number) ?? none;
    return [
      link(String(turn.number), () => onPlace(turn.first)), turn.words, number(one.replies), number(turn.calls),
      number(one.input), number(one.cached), number(one.output), ...(costs ? [money(one.pico)] : []), duration(turn.us),
      bar((one.input + one.output) / most),
    ];
  });
  byId("usage").replaceChildren(
    figures([
      ["turns", number(store.turns.length)], ["model replies", number(total.replies)],
      ["input tokens", number(total.input)], ["of them cached", number(total.cached)],
      ["output tokens", number(total.output)], ...(costs ? [["cost", money(total.pico)]] : []),
    ]),
    h("h2", {}, "Turns"), table(heads, rows, kinds), rest(store.turns.length),
    h("h2", {}, "Tools"), toolsTable(store));
}

function toolsTable(store) {
  const tools = new Map();
  for (let p = 0; p < store.count; p++) {
    if (store.status[p] < 0 || store.call[p] < 0) continue;
    const one = tools.get(store.toolOf(p)) ?? { runs: 0, problems: 0, took: [] };
    one.runs += 1;
    one.problems += store.markOf(p) === "problem" ? 1 : 0;
    one.took.push(store.took_us[p]);
    tools.set(store.toolOf(p), one);
  }
  if (!tools.size) return h("p", { class: "none" }, "No tool ran.");
  const rows = [...tools].sort((a, b) => b[1].runs - a[1].runs).map(([name, one]) => {
    const took = one.took.sort((a, b) => a - b);
    return [name, number(one.runs), number(one.problems), duration(took[took.length >> 1]), duration(took.at(-1)),
      duration(took.reduce((sum, us) => sum + us, 0))];
  });
  return table(["tool", "runs", "problems", "median", "longest", "together"], rows, ["wide", ...Array(5).fill("figure")]);
}

function showPredictions(store, onPlace) {
  const decisions = store.guesses;
  const first = decisions.filter(([, came, guesses]) => guesses[0]?.[0] === came);
  const three = decisions.filter(([, came, guesses]) => guesses.some(([tool]) => tool === came));
  const worth = worthOf(store, first);
  const share = (part) => (decisions.length ? `${Math.round((100 * part.length) / decisions.length)} %` : "–");
  const shown = decisions.slice(-MOST_ROWS).reverse();
  const rows = shown.map(([seq, came, guesses]) => [
    link(String(seq), () => onPlace(seq - 1)), toolName(came),
    guesses.map(([tool, probability]) => h("span", { class: tool === came ? "guess hit" : "guess" },
      toolName(tool), h("small", {}, ` ${Math.round(100 * probability)} %`))),
  ]);
  byId("predictions").replaceChildren(
    h("p", { class: "lead" }, "What the predictor would have said before each tool call and each end of a turn, " +
      "learned from this history alone and in its order, so every guess is about something not seen yet."),
    figures([
      ["decisions", number(decisions.length)], ["first guess right", share(first)], ["one of three right", share(three)],
      ["could have begun earlier by", worth],
    ]),
    h("p", { class: "note" }, "The last figure is the most that was to be gained: for each call that the first guess " +
      "named, the time that the model took to ask for it, or the call's own time where that is shorter."),
    h("h2", {}, "Decisions, newest first"),
    decisions.length ? table(["record", "what came", "guesses"], rows, ["figure", "", "wide"]) : h("p", { class: "none" }, "No turn has ended yet."),
    rest(decisions.length));
}

// What right first guesses could have saved at most, in words.
function worthOf(store, right) {
  const size = store.head.states.length;
  const generating = store.head.states.indexOf("generating_response");
  const ends = new Map();
  for (let p = 0; p < store.count; p++) {
    if (store.triggerOf(p) === "tool_finished") ends.set(`${store.toolOf(p)} ${store.turn[p]}`, [...(ends.get(`${store.toolOf(p)} ${store.turn[p]}`) ?? []), p]);
  }
  let us = 0;
  for (const [seq, came] of right) {
    const p = ends.get(`${came} ${store.turn[seq - 1]}`)?.shift();
    if (p === undefined) continue;
    const asked = store.calls[store.call[p]][4] - 1;
    const waited = Math.floor(store.moves[asked] / size) === generating ? store.step_us[asked] : 0;
    us += Math.min(waited, store.took_us[p]);
  }
  return duration(us);
}

const toolName = (name) => (name === "<end>" ? "end of turn" : name);

function figures(pairs) {
  return h("dl", { class: "figures" }, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function rest(size) {
  return size > MOST_ROWS ? h("p", { class: "none" }, `${number(MOST_ROWS)} of ${number(size)} are shown.`) : "";
}

function bar(share) {
  const made = h("span", { class: "bar", "aria-hidden": "true" });
  made.style.width = `${Math.round(100 * share)}%`;
  return made;
}

function link(text, act) {
  return h("button", { type: "button", class: "link", onclick: act }, text);
}
