// Elements without markup: whatever comes from a run becomes text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const byId = (id) => document.getElementById(id);

const count = new Intl.NumberFormat("en");
const number = (value) => count.format(value);

function plural(value, word) {
  return `${number(value)} ${word}${value === 1 ? "" : "s"}`;
}

function duration(us) {
  if (us === 0) return "0";
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${rounded(us / 1e3)} ms`;
  if (us < 60e6) return `${rounded(us / 1e6)} s`;
  if (us < 3600e6) return `${Math.floor(us / 60e6)} min ${Math.round((us % 60e6) / 1e6)} s`;
  return `${number(Math.floor(us / 3600e6))} h ${Math.round((us % 3600e6) / 60e6)} min`;
}

function rounded(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const spoken = (name) => name.replaceAll("_", " ");

function money(pico) {
  const whole = pico / 10n ** 12n;
  return `${whole}.${String(pico % 10n ** 12n).padStart(12, "0").slice(0, 6)}`.replace(/\.?0+$/, "") || "0";
}

// JSON as one reads it: names set apart from values, long texts whole, nothing interpreted.
function jsonView(value) {
  const out = h("pre", { class: "json" });
  const put = (kind, text) => out.append(kind ? h("span", { class: kind }, text) : text);
  const write = (item, indent) => {
    const inner = indent + "  ";
    const parts = item !== null && typeof item === "object" ? Object.entries(item) : null;
    if (!parts) put(item === null || typeof item === "boolean" ? "word" : typeof item, JSON.stringify(item));
    else if (!parts.length) put("", Array.isArray(item) ? "[]" : "{}");
    else {
      put("", Array.isArray(item) ? "[\n" : "{\n");
      parts.forEach(([key, child], index) => {
        put("", inner);
        if (!Array.isArray(item)) {
          put("name", JSON.stringify(key));
          put("", ": ");
        }
        write(child, inner);
        put("", index < parts.length - 1 ? ",\n" : "\n");
      });
      put("", indent + (Array.isArray(item) ? "]" : "}"));
    }
  };
  write(value, "");
  return out;
}

function table(heads, rows, kinds = []) {
  const cell = (tag, content, index) => h(tag, { class: kinds[index] }, content);
  return h("div", { class: "scroll-x" }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head, index) => h("th", { scope: "col", class: kinds[index] }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((content, index) => cell("td", content, index)))))));
}
