// One record: what was recorded, the state it led to, what it changed, and a test of it.

const TABS = ["record", "state", "changes", "test"];
const LONGEST_TEST = 500;
const MESSAGES_SHOWN = 30;

function makeDetail(store) {
  const panel = byId("panel");
  const detail = { place: -1, tab: "record" };

  detail.show = (p) => {
    detail.place = p;
    byId("detail-empty").hidden = p >= 0;
    byId("detail-body").hidden = p < 0;
    if (p < 0) return;
    byId("detail-title").textContent = `${p + 1}  ${spoken(store.triggerOf(p))}`;
    byId("detail-move").replaceChildren(...move(p));
    panel.replaceChildren(...{ record, state, changes, test }[detail.tab](p));
    panel.setAttribute("aria-labelledby", `tab-${detail.tab}`);
    panel.scrollTop = 0;
  };

  detail.open = (tab) => {
    detail.tab = tab;
    for (const name of TABS) {
      byId(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
      byId(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
    }
    detail.show(detail.place);
  };

  function move(p) {
    const pill = (name) => h("span", { class: "pill" }, h("span", { class: `state ${name}` }), spoken(name));
    const stays = store.source(p) === store.dest(p);
    return stays ? [pill(store.dest(p))] : [pill(store.source(p)), h("span", { class: "arrow" }, "→"), pill(store.dest(p))];
  }

  // --- the four tabs --------------------------------------------------------------------------------------------------

  function record(p) {
    const call = store.call[p];
    const facts = [
      ["time", store.at[p]],
      ["after the one before", p === 0 ? "" : duration(store.step_us[p])],
      ["turn", store.turn[p] ? String(store.turn[p]) : ""],
      ["call", call < 0 ? "" : store.calls[call][2]],
      ["status", spoken(store.statusOf(p))],
      ["took", store.took_us[p] ? duration(store.took_us[p]) : ""],
      ["hash", h("code", { class: "hash" }, store.hash(p))],
    ].filter(([, value]) => value !== "");
    return [
      h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      ...said(p),
      h("h3", {}, "Event"), jsonView(store.event(p)),
      h("h3", {}, "Effects"), store.effects(p).length ? jsonView(store.effects(p)) : h("p", { class: "none" }, "none"),
    ];
  }

  function state(p) {
    const snapshot = store.stateAt(p + 1);
    if (!snapshot) return [broken()];
    const messages = store.messagesAt(snapshot);
    const shown = messages.slice(-MESSAGES_SHOWN);
    const skipped = messages.length - shown.length;
    return [
      h("h3", {}, "Session"), jsonView(snapshot),
      h("h3", {}, `Conversation, ${plural(messages.length, "message")}`),
      skipped ? h("p", { class: "none" }, `the last ${shown.length} of them`) : "",
      h("ol", { class: "messages" }, shown.map(message)),
    ];
  }

  function changes(p) {
    const found = store.changesAt(p);
    if (!found) return [broken()];
    const before = store.stateAt(p);
    const after = store.stateAt(p + 1);
    const added = store.messages.slice(before.transcript, after.transcript).map((_, i) => store.message(before.transcript + i));
    return [
      h("div", { class: "changes" }, found.filter((one) => one.path !== "seq").map(change)),
      found.length > 1 ? "" : h("p", { class: "none" }, "nothing but the sequence"),
      added.length ? h("h3", {}, `${plural(added.length, "message")} joined the conversation`) : "",
      h("ol", { class: "messages" }, added.map(message)),
    ];
  }

  function test(p) {
    if (p + 1 > LONGEST_TEST) {
      return [h("p", { class: "none" }, `A test carries the records up to the one it is about. This is record ` +
        `${number(p + 1)}; up to ${LONGEST_TEST} can be carried.`)];
    }
    if (!store.stateAt(p + 1)) return [broken()];
    const code = testOf(store, p);
    const button = h("button", { type: "button", id: "copy-test", class: "primary" }, "Copy as test");
    const told = h("span", { class: "told", role: "status" });
    button.addEventListener("click", async () => {
      if (navigator.clipboard) {
        await navigator.clipboard.writeText(code);
        told.textContent = "copied";
      } else {
        getSelection().selectAllChildren(byId("test-code"));
        told.textContent = "selected: copy it with the keyboard";
      }
    });
    return [
      h("p", {}, "A pytest test that carries the records up to here, folds them and asserts the state."),
      h("p", { class: "actions" }, button, told),
      h("pre", { class: "code", id: "test-code", tabindex: "0" }, code),
    ];
  }

  // --- parts ----------------------------------------------------------------------------------------------------------

  function change({ path, before, after }) {
    return h("div", { class: "change", "data-path": path },
      h("div", { class: "path" }, path.replaceAll("/", " › ")),
      before === undefined ? "" : h("div", { class: "before" }, h("span", { class: "sign" }, "−"), jsonView(before)),
      after === undefined ? "" : h("div", { class: "after" }, h("span", { class: "sign" }, "+"), jsonView(after)));
  }

  function message(one) {
    return h("li", { class: one.role },
      h("span", { class: "role" }, one.role),
      h("div", {},
        one.text ? h("p", {}, one.text) : "",
        (one.tool_calls ?? []).map((call) => h("code", { class: "call" }, `${call.name}(${argumentsOf(call)})`))));
  }

  function argumentsOf(call) {
    return Object.entries(call.arguments ?? {}).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(", ");
  }

  // The text that a tool or the model gave, as it reads: JSON in it is laid out.
  function said(p) {
    const event = store.event(p);
    const text = event.content ?? event.reply?.text ?? event.messages?.at(-1)?.text;
    if (!text) return [];
    const data = /^[[{]/.test(text) ? parsedJson(text) : undefined;
    return [h("h3", {}, "Text"), data === undefined ? h("p", { class: "said" }, text) : jsonView(data)];
  }

  function broken() {
    return h("p", { class: "broken", role: "alert" },
      `The history does not hold from record ${store.broken.seq} on: ${store.broken.text}`);
  }

  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = TABS[(TABS.indexOf(detail.tab) + step + TABS.length) % TABS.length];
    detail.open(next);
    byId(`tab-${next}`).focus();
  });
  for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => detail.open(name));
  return detail;
}

// What a text holds as JSON; undefined where it is none.
function parsedJson(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

// The text of a pytest test. Everything foreign in it is a literal: JSON strings of ASCII are Python strings as well.
function testOf(store, p) {
  const state = store.stateAt(p + 1);
  const calls = [...(state.turn?.done ?? []), ...(state.turn?.batch?.calls ?? [])];
  const literal = (text) => ascii(JSON.stringify(text)).replace(
    /\\u(d[89ab]..)\\u(d[c-f]..)/g,
    (_, high, low) => "\\U" + (0x10000 + (parseInt(high, 16) - 0xd800) * 0x400 + parseInt(low, 16) - 0xdc00)
      .toString(16).padStart(8, "0"));
  const pairs = calls.map((call) => `        (${literal(call.call.name)}, ${literal(call.status ?? "queued")}),\n`);
  const requests = (state.turn?.requests ?? []).map((one) => literal(one.kind)).join(", ");
  const name = `${store.head.session}_at_${p + 1}`.toLowerCase().replace(/[^a-z0-9]+/g, "_");
  const lines = Array.from({ length: p + 1 }, (_, q) => `    ${literal(store.line(q))},\n`);
  return `from engine.journal.codec import decode
from engine.replay import state_at


def test_${name}() -> None:
    """The history still leads to the state that it led to when it was recorded."""
    session = state_at([decode(line) for line in HISTORY], ${p + 1})
    assert session.state.value == ${literal(state.state)}
    assert session.turns == ${state.turns ?? 0}
    assert len(session.transcript) == ${state.transcript}
    calls = session.turn.calls if session.turn else ()
    assert [(call.call.name, call.status.value) for call in calls] == [${pairs.length ? "\n" + pairs.join("") + "    " : ""}]
    assert [request.kind for request in session.pending] == [${requests}]


HISTORY = [
${lines.join("")}]
`;
}
