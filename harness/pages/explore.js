"use strict";
(() => {
const data = JSON.parse(document.getElementById("front-data").textContent);
const svg = document.getElementById("front-plot");
const WIDTH = 720, HEIGHT = 520, LEFT = 70, BOTTOM = 46, TOP = 14, RIGHT = 14;
const PREFIXES = ["f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P"];

function make(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function si(value, unit) {
  const power = Math.max(-5, Math.min(5, Math.floor(Math.log10(value) / 3 + 1e-9)));
  const scaled = Number((value / 10 ** (3 * power)).toPrecision(3));
  return unit === "1" ? String(Number(value.toPrecision(3))) : `${scaled} ${PREFIXES[power + 5]}${unit}`;
}

// A logarithmic scale over all values, with ticks at 1, 2 and 5 times the powers of ten.
function scaleOf(values, from, to) {
  const low = Math.log10(Math.min(...values)), high = Math.log10(Math.max(...values));
  const margin = Math.max((high - low) * 0.05, 0.02), first = low - margin, last = high + margin;
  const place = (value) => from + ((Math.log10(value) - first) / (last - first)) * (to - from);
  let ticks = [];
  for (let power = Math.floor(first); power <= Math.ceil(last); power++)
    for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** power);
  ticks = ticks.filter((tick) => Math.log10(tick) >= first && Math.log10(tick) <= last);
  if (ticks.length < 2) ticks = [10 ** low, 10 ** high].filter((tick, i, all) => all.indexOf(tick) === i);
  while (ticks.length > 8) ticks = ticks.filter((_, i) => i % 2 === 0);
  return { place, ticks };
}

function cell(row, kind, text) {
  const element = document.createElement(kind);
  element.textContent = text;
  row.append(element);
}

function table(rows, headers) {
  const element = document.createElement("table");
  if (headers) {
    const row = element.createTHead().insertRow();
    headers.forEach((header) => cell(row, "th", header));
  }
  const body = element.createTBody();
  for (const texts of rows) {
    const row = body.insertRow();
    texts.forEach((text) => cell(row, "td", text));
  }
  return element;
}

function heading(text) {
  const element = document.createElement("h3");
  element.textContent = text;
  return element;
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}

function open(design, dot) {
  document.querySelectorAll(".design[aria-pressed]").forEach((other) => other.setAttribute("aria-pressed", "false"));
  dot.setAttribute("aria-pressed", "true");
  const panel = document.getElementById("design");
  panel.replaceChildren(heading("Design"), table(design.facts));
  for (const part of design.breakdowns) {
    panel.append(heading(part.model), paragraph(`${part.latency}, ${part.energy}`));
    const bar = document.createElement("div"), key = document.createElement("p");
    bar.className = "bar";
    for (const share of part.bounds) {
      const piece = document.createElement("span");
      piece.className = share.name;
      piece.style.width = `${100 * share.share}%`;
      piece.title = `${share.name}: ${share.text}`;
      bar.append(piece);
      const label = document.createElement("span");
      label.className = share.name;
      label.textContent = `${share.name} ${share.text} (${(100 * share.share).toFixed(1)} %)  `;
      key.append(label);
    }
    panel.append(bar, key, table(part.kernels, ["kernels", "count", "time", "share", "bound"]));
  }
}

function draw() {
  const { x, y } = data, designs = data.designs;
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  if (!designs.length) {
    svg.append(make("text", { x: LEFT, y: HEIGHT / 2 }, "No design is within the limits."));
    return;
  }
  const across = scaleOf([...designs.map((d) => d[x.name]), ...data.others.map((o) => o[0])], LEFT, WIDTH - RIGHT);
  const upwards = scaleOf([...designs.map((d) => d[y.name]), ...data.others.map((o) => o[1])], HEIGHT - BOTTOM, TOP);
  for (const tick of across.ticks) {
    const at = across.place(tick);
    svg.append(make("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    svg.append(make("text", { x: at, y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, si(tick, x.unit)));
  }
  for (const tick of upwards.ticks) {
    const at = upwards.place(tick);
    svg.append(make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }));
    svg.append(make("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, si(tick, y.unit)));
  }
  svg.append(make("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, x.name));
  svg.append(make("text", { transform: `translate(14 ${HEIGHT / 2}) rotate(-90)`, "text-anchor": "middle" }, y.name));
  for (const [a, b] of data.others) svg.append(make("circle", { class: "other", cx: across.place(a), cy: upwards.place(b), r: 2 }));
  const places = designs.map((d) => [across.place(d[x.name]), upwards.place(d[y.name])]);
  svg.append(make("polyline", { class: "line", points: places.map((place) => place.join(",")).join(" ") }));
  designs.forEach((design, i) => {
    const [cx, cy] = places[i], opens = design.breakdowns.length > 0;
    const name = `${x.name} ${si(design[x.name], x.unit)}, ${y.name} ${si(design[y.name], y.unit)}`;
    const dot = make("circle", { class: "design", cx, cy, r: opens ? 6 : 3 });
    dot.append(make("title", {}, name));
    if (opens) {
      for (const [key, value] of Object.entries({ tabindex: 0, role: "button", "aria-label": name, "aria-pressed": "false" }))
        dot.setAttribute(key, value);
      dot.addEventListener("click", () => open(design, dot));
      dot.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open(design, dot);
      });
    }
    svg.append(dot);
  });
}

draw();
})();
