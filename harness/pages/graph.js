"use strict";
(() => {
  // A graph of kernels whose modules open and close. `data.kernels` is in execution order; each kernel lists its sources.
  const data = JSON.parse(document.getElementById("graph-data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 190, HEIGHT = 42, GAP_X = 34, GAP_Y = 74, FRAME = 6, MOST_AT_FIRST = 60;
  const svg = document.querySelector("#graph svg.canvas");
  const canvas = svg.querySelector("g");
  const facts = document.getElementById("facts"), map = document.getElementById("map");
  const pen = document.createElement("canvas").getContext("2d");
  const open = new Set([""]);
  let shown = [];

  const make = (tag, attributes, parent, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  };

  // "a.b" -> ["a", "a.b"]: the modules that contain a kernel, the outermost first.
  const ancestors = (path) => {
    const parts = path ? path.split(".") : [];
    return parts.map((_, i) => parts.slice(0, i + 1).join("."));
  };
  const counts = new Map();
  for (const kernel of data.kernels) for (const path of ancestors(kernel.module)) counts.set(path, (counts.get(path) || 0) + 1);
  // A module of one kernel is shown as that kernel.
  const modulesOf = data.kernels.map((kernel) => ancestors(kernel.module).filter((path) => counts.get(path) > 1));
  const modules = [...new Set(modulesOf.flat())];
  const last = (path) => path.slice(path.lastIndexOf(".") + 1);
  const title = (kernel, index) =>
    kernel.module !== (modulesOf[index].at(-1) || "") ? `${last(kernel.module)}: ${kernel.label}` : kernel.label;
  const depth = (path) => ancestors(path).length;

  // The nodes to draw: a kernel appears as the outermost closed module that contains it, or by itself.
  const view = () => {
    const nodes = new Map();
    const place = data.kernels.map((kernel, index) => {
      const closed = modulesOf[index].find((path) => !open.has(path));
      const id = closed === undefined ? `#${index}` : closed;
      if (!nodes.has(id)) {
        const label = closed === undefined ? title(kernel, index) : last(closed);
        const inside = closed === undefined ? modulesOf[index] : ancestors(closed).slice(0, -1);
        nodes.set(id, { id, label, inside, module: closed, order: index, kernels: [], time: 0, share: 0, bounds: {} });
      }
      const node = nodes.get(id);
      node.kernels.push(index);
      node.time += kernel.elapsed_s;
      node.share += kernel.share;
      node.bounds[kernel.bound] = (node.bounds[kernel.bound] || 0) + kernel.elapsed_s;
      return id;
    });
    const edges = new Map();
    data.kernels.forEach((kernel, index) => {
      for (const source of kernel.sources) {
        const from = place[source], to = place[index];
        if (from !== to) edges.set(`${from}>${to}`, { from: nodes.get(from), to: nodes.get(to) });
      }
    });
    return { nodes: [...nodes.values()], edges: [...edges.values()] };
  };

  // Layers follow the longest path from the inputs. Within a module, what shares a layer stands in lanes beside each other, so that
  // the frames of modules do not overlap; lanes follow the mean position of sources as the last pass found it.
  const layOut = ({ nodes, edges }) => {
    const forward = edges.filter(({ from, to }) => from.order < to.order);
    for (const node of nodes) Object.assign(node, { layer: 0, sources: [], x: 0 });
    for (const { from, to } of forward) to.sources.push(from);
    for (const node of nodes) {
      for (const source of node.sources) node.layer = Math.max(node.layer, source.layer + 1);
      node.y = node.layer * (HEIGHT + GAP_Y);
    }
    for (let pass = 0; pass < 3; pass++) {
      const wish = (node) => (node.sources.length ? node.sources.reduce((sum, source) => sum + source.x, 0) / node.sources.length : 0);
      const wishes = new Map(nodes.map((node) => [node, wish(node)]));
      arrange(nodes, 0, wishes)(0);
    }
  };
  // The width of what is `depth` modules deep, and a function that puts its middle somewhere.
  const arrange = (nodes, depth, wishes) => {
    const groups = new Map();
    for (const node of nodes) {
      const name = node.inside[depth] ?? node.id;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(node);
    }
    const items = [...groups.values()].map((inside) => {
      const layers = inside.map((node) => node.layer), single = inside[0].inside[depth] === undefined;
      const put = single ? (x) => { inside[0].x = x; } : arrange(inside, depth + 1, wishes);
      const wish = inside.reduce((sum, node) => sum + wishes.get(node), 0) / inside.length;
      return { first: Math.min(...layers), last: Math.max(...layers), wish, put, width: single ? WIDTH + GAP_X : put.width + 2 * FRAME };
    }).sort((a, b) => a.first - b.first || a.wish - b.wish);
    // Items that overlap in layers, also through others, share a row of lanes.
    const rows = [];
    for (const item of items) {
      const row = rows.at(-1);
      if (row && item.first <= row.last) { row.items.push(item); row.last = Math.max(row.last, item.last); } else rows.push({ items: [item], last: item.last });
    }
    for (const row of rows) {
      row.lanes = [];
      for (const item of row.items) {
        const free = row.lanes.find((lane) => lane.items.every((other) => other.last < item.first || item.last < other.first));
        if (free) { free.items.push(item); free.width = Math.max(free.width, item.width); } else row.lanes.push({ items: [item], width: item.width });
      }
      row.width = row.lanes.reduce((sum, lane) => sum + lane.width, 0);
    }
    const put = (middle) => {
      for (const row of rows) {
        let left = middle - row.width / 2;
        for (const lane of row.lanes) {
          for (const item of lane.items) item.put(left + lane.width / 2);
          left += lane.width;
        }
      }
    };
    put.width = Math.max(...rows.map((row) => row.width));
    return put;
  };

  const bound = (node) => Object.entries(node.bounds).sort((a, b) => b[1] - a[1])[0][0];
  // As much of a text as fits a width in pixels.
  const short = (text, room, weight = 600) => {
    pen.font = `${weight} 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif`;
    if (pen.measureText(text).width <= room) return text;
    let most = text.length;
    while (most > 1 && pen.measureText(`${text.slice(0, most)}…`).width > room) most--;
    return `${text.slice(0, most)}…`;
  };
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  const path = ({ from, to }) => {
    const x1 = from.x, y1 = from.y + HEIGHT / 2, x2 = to.x, y2 = to.y - HEIGHT / 2;
    // Edges that skip layers bend outwards, so that they stay visible beside the nodes between.
    const passed = Math.max(to.layer - from.layer - 1, 0);
    const out = passed ? WIDTH * 0.7 + 7 * Math.min(passed, 20) : 0;
    const bend = Math.max(GAP_Y, (y2 - y1) / 3);
    return `M${x1},${y1} C${x1 + out},${y1 + bend} ${x2 + out},${y2 - bend} ${x2},${y2}`;
  };

  const showFacts = (node) => {
    const lines = node.module === undefined ? data.kernels[node.kernels[0]].facts : data.modules[node.module] || [];
    facts.replaceChildren(...lines.map((line, i) => {
      const element = document.createElement(i ? "div" : "b");
      element.textContent = line;
      return element;
    }));
  };

  const draw = () => {
    const graph = view();
    layOut(graph);
    shown = graph.nodes;
    canvas.replaceChildren();
    for (const module of modules.filter((path) => open.has(path)).sort((a, b) => depth(a) - depth(b))) {
      const inside = graph.nodes.filter((node) => node.inside.includes(module));
      if (!inside.length) continue;
      // Nested frames that begin at one node need room for each name.
      const levels = Math.max(...inside.map((node) => node.inside.length)) - depth(module);
      const pad = 8 + 3 * Math.min(levels, 3), above = 18 + 14 * Math.min(levels, 3);
      const left = Math.min(...inside.map((n) => n.x)) - WIDTH / 2 - pad, top = Math.min(...inside.map((n) => n.y)) - HEIGHT / 2 - above;
      const right = Math.max(...inside.map((n) => n.x)) + WIDTH / 2 + pad, low = Math.max(...inside.map((n) => n.y)) + HEIGHT / 2 + pad;
      const frame = make("g", { class: "frame" }, canvas);
      make("rect", { x: left, y: top, width: right - left, height: low - top }, frame);
      const name = make("text", { x: left + 6, y: top + 11, tabindex: 0, role: "button", "aria-label": `close ${module}` }, frame, short(`− ${module}`, right - left - 12, 400));
      act(name, () => { for (const path of [...open]) if (path === module || path.startsWith(`${module}.`)) open.delete(path); draw(); });
    }
    const lines = graph.edges.map((edge) => ({
      ...edge,
      element: make("path", { d: path(edge), class: edge.from.order < edge.to.order ? "edge" : "edge back" }, canvas),
    }));
    const most = Math.max(...graph.nodes.map((node) => node.share), 1e-12);
    for (const node of graph.nodes) {
      const place = `translate(${node.x - WIDTH / 2},${node.y - HEIGHT / 2})`;
      const closed = node.module !== undefined, count = closed ? `, ${node.kernels.length} kernels` : "";
      const text = `${percent(node.share)}, ${bound(node)}${count}`;
      const group = make("g", { class: "node", transform: place, tabindex: 0, role: "button", "aria-label": `${node.label}: ${text}` }, canvas);
      if (closed) group.setAttribute("aria-expanded", "false");
      node.element = group;
      const colour = data.colours[bound(node)];
      make("rect", { class: "body", width: WIDTH, height: HEIGHT }, group);
      make("rect", { class: "bound", x: 3, y: 4, width: 6, height: HEIGHT - 8, fill: colour }, group);
      make("rect", { class: "part", x: 14, y: HEIGHT - 7, width: Math.max(2, (WIDTH - 22) * (node.share / most)), height: 4, fill: colour }, group);
      make("text", { x: 15, y: 16 }, group, short(closed ? `+ ${node.label}` : node.label, WIDTH - 23));
      make("text", { x: 15, y: 30, class: "share" }, group, short(text, WIDTH - 23, 400));
      const highlight = () => {
        showFacts(node);
        for (const { from, to, element } of lines) element.classList.toggle("near", from === node || to === node);
      };
      group.addEventListener("pointerenter", highlight);
      group.addEventListener("focus", () => { highlight(); reveal(node); });
      act(group, () => {
        if (!closed) return;
        open.add(node.module);
        draw();
        shown.find((other) => other.inside.includes(node.module))?.element.focus({ preventScroll: true });
      });
    }
    mark();
    drawMap();
  };

  const act = (element, action) => {
    element.addEventListener("click", () => { if (!dragged) action(); });
    element.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); action(); } });
  };

  // Fades the kernels whose module and operators do not contain the search text.
  const search = document.getElementById("search");
  const mark = () => {
    const words = search.value.trim().toLowerCase();
    for (const group of canvas.querySelectorAll(".node")) group.classList.remove("faded");
    if (!words) return;
    const matches = data.kernels.map((kernel) => `${kernel.module} ${kernel.label}`.toLowerCase().includes(words));
    for (const node of shown) node.element.classList.toggle("faded", !node.kernels.some((index) => matches[index]));
  };

  // Moving and zooming; zooming keeps the point under the pointer.
  let scale = 1, x = 0, y = 0, dragged = false, start = null;
  const place = () => {
    canvas.setAttribute("transform", `translate(${x},${y}) scale(${scale})`);
    const frame = svg.getBoundingClientRect(), view = map.querySelector(".view");
    for (const [name, value] of Object.entries({ x: -x / scale, y: -y / scale, width: frame.width / scale, height: frame.height / scale })) view?.setAttribute(name, value);
  };
  // The whole graph in the corner, with the part that is seen; a click moves there.
  const drawMap = () => {
    const box = canvas.getBBox();
    map.setAttribute("viewBox", `${box.x - 20} ${box.y - 20} ${box.width + 40} ${box.height + 40}`);
    map.replaceChildren(...shown.map((node) => make("rect", { x: node.x - WIDTH / 2, y: node.y - HEIGHT / 2, width: WIDTH, height: HEIGHT })), make("rect", { class: "view" }));
    place();
  };
  const look = (px, py) => {
    const frame = svg.getBoundingClientRect();
    x = frame.width / 2 - scale * px; y = frame.height / 2 - scale * py;
    place();
  };
  map.addEventListener("click", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    look(point.x, point.y);
  });
  // Brings a node that has the keyboard's focus into sight.
  const reveal = (node) => {
    const frame = svg.getBoundingClientRect(), px = x + scale * node.x, py = y + scale * node.y;
    if (px < 40 || px > frame.width - 40 || py < 30 || py > frame.height - 30) look(node.x, node.y);
  };
  const zoom = (factor, px, py) => { x = px - (px - x) * factor; y = py - (py - y) * factor; scale *= factor; place(); };
  const fit = () => {
    const box = canvas.getBBox(), frame = svg.getBoundingClientRect();
    if (!box.width || !frame.width) return;
    scale = Math.min(frame.width / (box.width + 60), Math.max(frame.height / (box.height + 60), 0.8), 1.4);
    x = frame.width / 2 - scale * (box.x + box.width / 2);
    y = 30 - scale * box.y;
    place();
  };
  // The wheel scrolls the page; with Ctrl it zooms.
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const frame = svg.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 500), event.clientX - frame.left, event.clientY - frame.top);
  }, { passive: false });
  for (const [name, factor] of [["nearer", 1.3], ["farther", 1 / 1.3]]) {
    document.getElementById(name).addEventListener("click", () => zoom(factor, svg.clientWidth / 2, svg.clientHeight / 2));
  }
  svg.addEventListener("pointerdown", (event) => { start = { px: event.clientX - x, py: event.clientY - y, x: event.clientX, y: event.clientY }; dragged = false; });
  window.addEventListener("pointermove", (event) => {
    if (!start) return;
    if (Math.hypot(event.clientX - start.x, event.clientY - start.y) > 4) dragged = true;
    if (dragged) { x = event.clientX - start.px; y = event.clientY - start.py; svg.classList.add("moving"); place(); }
  });
  window.addEventListener("pointerup", () => { start = null; svg.classList.remove("moving"); });

  // Opens whole levels as long as at most this many nodes are shown.
  const openLevels = (most) => {
    for (let level = 1; ; level++) {
      const next = modules.filter((path) => depth(path) === level && !open.has(path));
      if (!next.length && !modules.some((path) => depth(path) > level)) return;
      next.forEach((path) => open.add(path));
      if (view().nodes.length > most) { next.forEach((path) => open.delete(path)); return; }
    }
  };
  document.getElementById("open").addEventListener("click", () => {
    const closed = modules.filter((path) => !open.has(path)), level = Math.min(...closed.map(depth));
    closed.filter((path) => depth(path) === level).forEach((path) => open.add(path));
    draw(); fit();
  });
  document.getElementById("close").addEventListener("click", () => { open.clear(); open.add(""); draw(); fit(); });
  document.getElementById("fit").addEventListener("click", fit);
  search.addEventListener("input", mark);

  openLevels(MOST_AT_FIRST);
  draw();
  fit();
  new ResizeObserver(place).observe(svg);
})();
