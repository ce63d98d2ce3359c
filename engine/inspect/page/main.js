// Puts the page together: reads the data, wires the parts, keeps the address in step, and takes what comes in live.

const store = makeStore(JSON.parse(byId("head").textContent));
for (const chunk of await unpacked(JSON.parse(byId("records").textContent))) store.append(chunk);

const list = makeList(store, { onSelect: (p) => chosen(p) });
const detail = makeDetail(store);
const timeline = makeTimeline(store, { onSelect: (p) => list.select(p) });

function chosen(p) {
  detail.show(p);
  timeline.select(p);
  if (p >= 0 && location.hash !== `#seq=${p + 1}`) history.replaceState(null, "", `#seq=${p + 1}`);
}

// --- filter -----------------------------------------------------------------------------------------------------------

const field = byId("filter");

function refilter() {
  const places = applyFilter(store, field.value);
  list.show(places);
  field.classList.toggle("empty", field.value === "");
  byId("matches").textContent = places.length === store.count ? plural(store.count, "record")
    : `${number(places.length)} of ${plural(store.count, "record")}`;
  for (const chip of document.querySelectorAll("[data-term]")) {
    chip.setAttribute("aria-pressed", String(field.value.split(/\s+/).includes(chip.dataset.term)));
  }
}

function toggleTerm(term) {
  const terms = field.value.split(/\s+/).filter(Boolean);
  field.value = (terms.includes(term) ? terms.filter((one) => one !== term) : [...terms, term]).join(" ");
  refilter();
}

field.addEventListener("input", refilter);
for (const chip of document.querySelectorAll("[data-term]")) {
  chip.addEventListener("click", () => toggleTerm(chip.dataset.term));
}
byId("grouped").addEventListener("click", (event) => {
  const grouped = event.currentTarget.getAttribute("aria-pressed") !== "true";
  event.currentTarget.setAttribute("aria-pressed", String(grouped));
  list.toggleGroups(grouped);
});

// --- views ------------------------------------------------------------------------------------------------------------

const VIEWS = ["history", "states", "usage", "predictions"];

function openView(name) {
  for (const view of VIEWS) {
    byId(`view-${view}`).hidden = view !== name;
    byId(`show-${view}`).setAttribute("aria-current", view === name ? "page" : "false");
  }
  drawView(name);
}

function drawView(name) {
  if (name === "states") drawDiagram(store, (state) => showFiltered(`state:${state}`));
  if (name === "usage") showUsage(store, showPlace);
  if (name === "predictions") showPredictions(store, showPlace);
}

function showPlace(p) {
  openView("history");
  list.select(p);
  byId("rows").focus();
}

function showFiltered(text) {
  openView("history");
  field.value = text;
  refilter();
  field.focus();
}

for (const view of VIEWS) byId(`show-${view}`).addEventListener("click", () => openView(view));
window.addEventListener("beforeprint", () => VIEWS.slice(1).forEach(drawView));

// --- heading, theme, keys ---------------------------------------------------------------------------------------------

const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "long", timeZone: "UTC" });

function describe() {
  const us = store.turns.reduce((sum, turn) => sum + turn.us, 0);
  const problems = store.mark.reduce((sum, mark) => sum + (store.head.marks[mark] === "problem" ? 1 : 0), 0);
  const facts = [
    plural(store.count, "record"), plural(store.turns.length, "turn"), plural(store.calls.length, "call"),
    problems ? plural(problems, "problem") : "", `${duration(us)} in turns`, store.count ? day.format(new Date(store.at[0])) : "",
  ];
  byId("facts").textContent = facts.filter(Boolean).join(" · ");
  const damage = store.broken ? `from record ${store.broken.seq} on: ${store.broken.text}` : store.head.damage;
  byId("damage").hidden = !damage;
  byId("damage").textContent = damage ? `This history does not hold, ${damage}` : "";
}

const dark = matchMedia("(prefers-color-scheme: dark)");

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
}

setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
byId("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
byId("print").addEventListener("click", () => print());
byId("zoom-all").addEventListener("click", timeline.zoomAll);
byId("zoom-turn").addEventListener("click", timeline.zoomTurn);
byId("zoom-in").addEventListener("click", () => timeline.zoomBy(0.6));
byId("zoom-out").addEventListener("click", () => timeline.zoomBy(1.6));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && document.activeElement !== field) {
    event.preventDefault();
    openView("history");
    field.focus();
    field.select();
  } else if (event.key === "Escape" && document.activeElement === field) {
    field.value = "";
    refilter();
    byId("rows").focus();
  } else if (event.key === "ArrowDown" && document.activeElement === field) {
    event.preventDefault();
    byId("rows").focus();
  }
});

// --- address ----------------------------------------------------------------------------------------------------------

function fromAddress() {
  const seq = Number(/^#seq=(\d+)$/.exec(location.hash)?.[1] ?? 0);
  if (seq < 1 || seq > store.count) return false;
  openView("history");
  list.select(seq - 1);
  return true;
}

window.addEventListener("hashchange", fromAddress);

// --- live -------------------------------------------------------------------------------------------------------------

function follow() {
  const source = new EventSource(`events?after=${store.count}`);
  const told = byId("live");
  told.hidden = false;
  source.addEventListener("open", () => (told.textContent = "live"));
  source.addEventListener("error", () => (told.textContent = "reconnecting"));
  source.addEventListener("chunk", (event) => {
    const chunk = JSON.parse(event.data);
    // A connection that was lost begins again where it stopped; what is here already is passed over.
    if (chunk.first !== store.count + 1) return;
    const atEnd = list.selected === store.count - 1;
    store.append(chunk);
    describe();
    timeline.measure();
    refilter();
    if (atEnd) list.select(store.count - 1);
    const shown = VIEWS.find((view) => !byId(`view-${view}`).hidden);
    drawView(shown);
  });
}

describe();
refilter();
timeline.measure();
if (store.count > 600) timeline.zoomTurn();
if (!fromAddress() && store.count) list.select(0, { quiet: false });
openView("history");
if (store.head.live) follow();
// The first search need not wait for this.
(window.requestIdleCallback ?? setTimeout)(() => store.haystacks());

// A large history comes compressed: base64 of gzip of its chunks, each as JSON and its three texts of lines.
async function unpacked(records) {
  if (Array.isArray(records)) return records;
  const stream = new Blob([bytesOf(records.gzip)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const parts = (await new Response(stream).text()).split("\x1e");
  const chunks = [];
  for (let i = 0; i < parts.length; i += 4) {
    const [events, changes, messages] = parts.slice(i + 1, i + 4);
    chunks.push({ ...JSON.parse(parts[i]), events, changes, messages });
  }
  return chunks;
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

// For the console: inspector.stateAt(17), inspector.changesAt(17), inspector.filter("tool:x").
window.inspector = {
  store,
  stateAt: (seq) => store.stateAt(seq),
  changesAt: (seq) => store.changesAt(seq - 1),
  filter: (text) => applyFilter(store, text).map((p) => p + 1),
  messagesAt: (seq) => store.messagesAt(store.stateAt(seq)),
  testAt: (seq) => testOf(store, seq - 1),
  line: (seq) => store.line(seq - 1),
};
document.documentElement.dataset.ready = "true";
