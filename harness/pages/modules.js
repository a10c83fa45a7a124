"use strict";
(() => {
  // Time by module: an icicle, in which each module stands on the one that holds it, or a treemap, in which it stands inside.
  // `data.boxes` lists modules in tree order, each with the position of the one that holds it (-1 for the model).
  const { boxes, colours } = JSON.parse(document.getElementById("module-data").textContent);
  const SVG = "http://www.w3.org/2000/svg", ROW = 30, LETTER = 7.2;
  const svg = document.querySelector("#modules svg"), facts = document.getElementById("module-facts");
  const children = boxes.map(() => []);
  boxes.forEach((box, i) => { if (box.parent >= 0) children[box.parent].push(i); });
  let root = 0, kind = "icicle";

  const below = (i) => Math.max(0, ...children[i].map((child) => 1 + below(child)));
  const make = (tag, attributes, parent, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const box = (i, left, top, width, height) => {
    if (width < 1 || height < 1) return;
    const { label, share, bound, facts: lines } = boxes[i];
    const group = make("g", { class: "box", tabindex: 0, role: "button", "aria-label": lines.slice(0, 2).join(": ") }, svg);
    make("rect", { x: left, y: top, width, height, fill: colours[bound] }, group);
    const text = `${label} ${(100 * share).toFixed(1)} %`, most = Math.floor((width - 10) / LETTER);
    const fits = text.length <= most ? text : label.length <= most ? label : most > 4 ? `${label.slice(0, most - 1)}…` : "";
    if (fits && height > 16) make("text", { x: left + 6, y: top + 17 }, group, fits);
    const tell = () => { facts.textContent = lines.join("\n"); };
    group.addEventListener("pointerenter", tell);
    group.addEventListener("focus", tell);
    const enter = () => { root = i === root ? Math.max(boxes[i].parent, 0) : i; draw(); svg.querySelector(".box").focus({ preventScroll: true }); };
    group.addEventListener("click", enter);
    group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enter(); } });
  };
  const icicle = (i, left, top, width) => {
    box(i, left, top, width, ROW);
    let from = left;
    for (const child of children[i]) {
      const part = boxes[i].share ? (width * boxes[child].share) / boxes[i].share : 0;
      icicle(child, from, top + ROW, part);
      from += part;
    }
  };
  const treemap = (i, left, top, width, height) => {
    box(i, left, top, width, height);
    const inside = [left + 3, top + 22, width - 6, height - 25];
    if (inside[2] < 4 || inside[3] < 4) return;
    let done = 0;
    for (const child of children[i]) {
      const part = boxes[i].share ? boxes[child].share / boxes[i].share : 0;
      if (inside[2] > inside[3]) treemap(child, inside[0] + done * inside[2], inside[1], part * inside[2], inside[3]);
      else treemap(child, inside[0], inside[1] + done * inside[3], inside[2], part * inside[3]);
      done += part;
    }
  };
  const draw = () => {
    const width = svg.clientWidth, height = kind === "icicle" ? ROW * (1 + below(root)) : Math.max(320, Math.min(620, 0.6 * width));
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.style.height = `${height}px`;
    if (kind === "icicle") icicle(root, 0, 0, width);
    else treemap(root, 0, 0, width, height);
    facts.textContent = boxes[root].facts.join("\n");
  };
  const buttons = [...document.querySelectorAll("[data-kind]")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      kind = button.dataset.kind;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      draw();
    });
  }
  let width = svg.clientWidth;
  new ResizeObserver(() => { if (svg.clientWidth !== width) { width = svg.clientWidth; draw(); } }).observe(svg);
  draw();
})();
