"use strict";
(() => {
  // Draws the figures of a page as SVG. Positions are in the data's units; `chart.py` describes each kind of mark.
  const { texts, figures } = JSON.parse(document.getElementById("figures").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const HEAT = [[34, 38, 79], [56, 80, 155], [47, 140, 174], [63, 191, 149], [184, 214, 79], [253, 232, 89]];
  const MOST_RECTANGLES = 4000, LETTER = 6.8;
  const DASHES = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" };

  const make = (tag, attributes, parent, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent?.append(element);
    return element;
  };
  const html = (tag, name, parent, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    parent?.append(element);
    return element;
  };

  const number = (value, digits) => {
    const size = Math.abs(Number(value.toPrecision(digits)));
    return size >= 1e7 || (size < 1e-4 && size) ? value.toExponential(digits - 1) : size.toFixed(Math.max(digits - 1 - Math.floor(Math.log10(size || 1)), 0)).replace(/^/, value < 0 ? "-" : "");
  };
  // "1.23 ms": as the tables have it.
  const si = (value, unit = "", digits = 3) => {
    if (value === null || value === undefined) return "unknown";
    if (unit === "%") return `${(100 * value).toFixed(digits > 2 ? 1 : 0)} %`;
    if (value === 0) return unit ? `0 ${unit}` : "0";
    let power = Math.floor(Math.log10(Number(Math.abs(value).toPrecision(digits))) / 3 + 1e-12);
    if (power < 0 && (!unit || unit.startsWith("/"))) power = 0;
    power = Math.max(-5, Math.min(power, unit === "s" ? 0 : 5));
    return `${number(value / 1000 ** power, digits)} ${["f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P"][power + 5]}${unit}`.trim();
  };
  const bytes = (value) => {
    const step = Math.min(Math.floor(Math.log2(value) / 10 + 1e-9), 5);
    return `${Number((value / 1024 ** step).toPrecision(3))} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][step]}`;
  };
  const shown = (axis, value, digits = 3) => (axis.labels ? axis.labels[value] : axis.scale === "octave" ? bytes(value) : si(value, axis.unit, digits));
  const tickText = (axis, value) => (axis.labels ? axis.labels[value] : shown(axis, value, 2).replace(/\.0(?= |$)/, ""));

  // Ticks: the densest regular choice that has at most this many.
  const ticks = (axis, [low, high], most) => {
    if (axis.labels) {
      const step = Math.max(1, Math.ceil(axis.labels.length / most));
      return axis.labels.map((_, i) => i).filter((i) => i >= low && i <= high && i % step === 0);
    }
    if (axis.scale === "log" || axis.scale === "octave") {
      const base = axis.scale === "log" ? 10 : 2, log = (v) => Math.log(v) / Math.log(base);
      const first = Math.floor(log(low)), last = Math.ceil(log(high));
      const choices = base === 10 ? [[[1, 2, 3, 5, 7], 1], [[1, 2, 5], 1], [[1, 3], 1]] : [];
      for (let step = 1; step < 40; step++) choices.push([[1], step]);
      for (const [digits, step] of choices) {
        const marks = [];
        for (let power = Math.ceil(first / step) * step; power <= last; power += step) for (const digit of digits) marks.push(digit * base ** power);
        const inside = marks.filter((mark) => mark >= low * (1 - 1e-9) && mark <= high * (1 + 1e-9));
        if (inside.length <= most) return inside;
      }
      return [];
    }
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((digit) => digit * power >= rough) * power;
    const marks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) marks.push(i * step);
    return marks;
  };
  // Position of a value between 0 and `length` pixels.
  const scaled = (axis, [low, high], length) => {
    const of = axis.scale === "log" || axis.scale === "octave" ? Math.log : (v) => v;
    const start = of(low), span = of(high) - start;
    return { at: (value) => ((of(value) - start) / span) * length, back: (pixel) => { const v = start + (pixel / length) * span; return of === Math.log ? Math.exp(v) : v; } };
  };

  const polygon = (corners, turn = 0, inner = 1) => (x, y, r) =>
    `M${Array.from({ length: corners }, (_, i) => {
      const angle = 2 * Math.PI * (i / corners + turn) - Math.PI / 2, reach = inner < 1 && i % 2 ? r * inner : r;
      return `${(x + reach * Math.cos(angle)).toFixed(1)},${(y + reach * Math.sin(angle)).toFixed(1)}`;
    }).join("L")}Z`;
  const SYMBOLS = {
    ring: (x, y, r) => SYMBOLS.circle(x, y, r),
    circle: (x, y, r) => `M${(x - r).toFixed(1)},${y.toFixed(1)}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    diamond: polygon(4), square: polygon(4, 0.125), "triangle-up": polygon(3), "triangle-down": polygon(3, 0.5), star: polygon(10, 0, 0.45),
    pentagon: polygon(5), hexagon: polygon(6), cross: polygon(8, 0, 0.35), x: polygon(8, 0.125, 0.35),
  };

  const colourAt = (share) => {
    const place = Math.max(0, Math.min(share, 1)) * (HEAT.length - 1), i = Math.min(Math.floor(place), HEAT.length - 2);
    return HEAT[i].map((part, k) => Math.round(part + (place - i) * (HEAT[i + 1][k] - part)));
  };
  const light = (rgb) => rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const inkOn = (rgb) => (light(rgb) > 0.179 ? "#000" : "#fff");
  const share = (layer, value) => {
    const of = layer.log ? Math.log : (v) => v;
    const part = layer.high > layer.low ? (of(value) - of(layer.low)) / (of(layer.high) - of(layer.low)) : 0.5;
    return layer.less ? 1 - part : part;
  };

  const tip = html("div", "tip", document.body);
  tip.hidden = true;
  tip.setAttribute("role", "status");
  const tell = (event, lines) => {
    tip.hidden = !lines;
    if (!lines) return;
    tip.textContent = lines;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 6))}px`;
    tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
  };

  // One function a kind of mark: draws into `plot` and may return a function that says what is under the pointer.
  const points = (mark, { plot, x, y, chart, xs, ys }) => {
    const at = mark.x.map((value, i) => (value === null || mark.y[i] === null ? null : [x(value), y(mark.y[i])]));
    const colour = mark.colour ?? "var(--edge)", radius = (mark.size ?? 7) / 2, style = { stroke: colour, opacity: mark.opacity ?? 1 };
    const bar = (i, x0, y0, x1, y1) => at[i] && `M${x0.toFixed(1)},${y0.toFixed(1)}L${x1.toFixed(1)},${y1.toFixed(1)}`;
    const bars = [...(mark.low ?? []).map((low, i) => at[i] && bar(i, at[i][0], y(low), at[i][0], y(mark.high[i]))), ...(mark.left ?? []).map((left, i) => at[i] && bar(i, x(left), at[i][1], x(mark.right[i]), at[i][1]))];
    if (bars.length) make("path", { d: bars.filter(Boolean).join(""), fill: "none", "stroke-width": 1.2, ...style }, plot);
    if (mark.line) make("path", { d: at.filter(Boolean).map((p, i) => `${i ? "L" : "M"}${p[0].toFixed(1)},${p[1].toFixed(1)}`).join(""), fill: "none", "stroke-width": 2, "stroke-dasharray": DASHES[mark.line] ?? mark.line, ...style }, plot);
    const symbol = SYMBOLS[mark.symbol ?? "circle"];
    if (symbol) {
      for (const hollow of [false, true]) {
        const drawn = at.map((p, i) => (p && Boolean(mark.hollow?.[i]) === hollow ? symbol(p[0], p[1], mark.sizes ? mark.sizes[i] / 2 : radius) : "")).join("");
        const ring = mark.symbol === "ring";
        if (drawn) make("path", { d: drawn, fill: ring ? "none" : hollow ? "var(--panel)" : colour, "stroke-width": ring ? 3 : hollow ? 1.5 : 0.5, ...style }, plot);
      }
    }
    return (px, py) => {
      let best = 14 * 14, found = -1;
      at.forEach((p, i) => { if (p && (p[0] - px) ** 2 + (p[1] - py) ** 2 < best) { best = (p[0] - px) ** 2 + (p[1] - py) ** 2; found = i; } });
      if (found < 0) return null;
      const place = [[chart.x, mark.x[found]], [chart.y, mark.y[found]]].filter(([axis]) => !axis.labels && axis.title).map(([axis, value]) => `${axis.title}: ${shown(axis, value)}`);
      return { distance: best, lines: [mark.texts?.length ? texts[mark.texts[found]] : mark.name, ...place].filter(Boolean).join("\n") };
    };
  };
  const guide = (mark, { plot, x, y, width, over }) => {
    const at = mark.x.map((value, i) => [x(value), y(mark.y[i])]);
    make("path", { d: `M${at.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L")}`, fill: "none", stroke: mark.colour ?? "var(--edge)", "stroke-width": mark.width ?? 1, "stroke-dasharray": DASHES[mark.line ?? "solid"] }, plot);
    const [px, py] = at.at(-1);
    if (mark.label) over.push([Math.max(0, Math.min(px, width)), py - 5, mark.label, "end"]);
  };
  const band = (mark, { plot, x, y }) => {
    const edge = (values) => mark.x.map((value, i) => `${x(value).toFixed(1)},${y(values[i]).toFixed(1)}`);
    make("path", { d: `M${edge(mark.high).join("L")}L${edge(mark.low).reverse().join("L")}Z`, fill: mark.colour ?? "#3faf46", "fill-opacity": 0.16 }, plot);
  };
  const rule = (mark, { plot, x, height, over }) => {
    make("path", { d: `M${x(mark.x).toFixed(1)},0V${height}`, stroke: mark.colour ?? "#d3304d", "stroke-width": 1.5, "stroke-dasharray": "3 3" }, plot);
    if (mark.label) over.push([x(mark.x), -5, mark.label, "middle"]);
  };
  const bars = (mark, { plot, x, y, width }) => {
    const thick = (mark.thickness ?? 0.8) * Math.abs(y(1) - y(0));
    const boxes = mark.at.map((at, i) => [x(mark.start[i]), y(at) - thick / 2, Math.max(x(mark.end[i]) - x(mark.start[i]), 0), thick]);
    boxes.forEach(([left, top, wide, high], i) => {
      make("rect", { x: left, y: top, width: wide, height: high, fill: mark.colour }, plot);
      const text = mark.labels?.[i];
      if (text && high >= 11) {
        const outside = left + wide + 6 + text.length * LETTER < width;
        make("text", { x: outside ? left + wide + 6 : width - 4, y: top + high / 2 + 4, class: "label", "text-anchor": outside ? "start" : "end" }, plot, text);
      }
    });
    return (px, py) => {
      const found = boxes.findIndex(([left, top, wide, high]) => px >= left && px <= left + wide && py >= top && py <= top + high);
      return found < 0 ? null : { distance: 0, lines: texts[mark.texts[found]] };
    };
  };
  const boxes = (mark, { plot, x, y }) => {
    const half = 0.3 * Math.abs(y(1) - y(0));
    mark.quartiles.forEach(([low, first, middle, third, high], i) => {
      const centre = y(mark.at[i]), style = { stroke: mark.colours[i], "stroke-width": 1.6 };
      make("path", { d: `M${x(low)},${centre}H${x(first)}M${x(third)},${centre}H${x(high)}`, ...style }, plot);
      make("rect", { x: x(first), y: centre - half, width: Math.max(x(third) - x(first), 1), height: 2 * half, fill: mark.colours[i], "fill-opacity": 0.25, ...style }, plot);
      make("path", { d: `M${x(middle)},${centre - half}v${2 * half}`, stroke: "var(--ink)", "stroke-width": 2 }, plot);
    });
  };
  const cellAt = (x, y, columns, lines) => (px, py) => {
    const i = Math.floor(px / (x(1) - x(0))), k = Math.floor(py / Math.abs(y(1) - y(0)));
    return i >= 0 && i < columns && k >= 0 && k < lines ? [i, y(1) > y(0) ? k : lines - 1 - k] : null;
  };
  // Cells in colours, with texts where they have room; many cells become one picture.
  const cells = (grid, colour, text, { plot, x, y, width, height }) => {
    const columns = grid[0]?.length ?? 0, lines = grid.length, wide = x(1) - x(0), high = Math.abs(y(1) - y(0));
    const gap = Math.min(wide, high) > 8 ? 1 : 0;
    if (columns * lines > MOST_RECTANGLES) {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [columns, lines];
      const context = canvas.getContext("2d");
      grid.forEach((line, k) => line.forEach((value, i) => { const rgb = colour(value); if (rgb) { context.fillStyle = `rgb(${rgb})`; context.fillRect(i, y(1) > y(0) ? k : lines - 1 - k, 1, 1); } }));
      make("image", { href: canvas.toDataURL(), width, height, preserveAspectRatio: "none", style: "image-rendering: pixelated" }, plot);
      return;
    }
    grid.forEach((line, k) => line.forEach((value, i) => {
      const rgb = colour(value);
      if (!rgb) return;
      const left = x(i) - wide / 2, top = y(k) - high / 2, label = high >= 13 ? text(value, i, k) : "";
      make("rect", { x: left, y: top, width: wide - gap, height: high - gap, fill: `rgb(${rgb})` }, plot);
      if (label && label.length * LETTER + 4 <= wide) make("text", { x: x(i), y: y(k) + 4, "text-anchor": "middle", style: `fill: ${inkOn(rgb)}` }, plot, label);
    }));
  };
  const placeOf = (chart, i, k) => [[chart.x, i], [chart.y, k]].map(([axis, index]) => `${axis.title} ${axis.labels[index]}`.trim());
  const heat = (mark, frame) => {
    const layer = mark.layers[Math.min(frame.state.layer, mark.layers.length - 1)], columns = layer.z[0].length;
    cells(layer.z, (value) => (value === null ? null : colourAt(share(layer, value))), (value, i, k) => (mark.cells?.length ? mark.cells[k][i] : si(value, layer.unit, 3)), frame);
    const cell = cellAt(frame.x, frame.y, columns, layer.z.length);
    return (px, py) => {
      const found = cell(px, py);
      if (!found) return null;
      const [i, k] = found, values = mark.layers.filter((one) => one.z[k][i] !== null).map((one) => `${one.name}: ${si(one.z[k][i], one.unit)}`);
      return values.length ? { distance: 1, lines: [...placeOf(frame.chart, i, k), ...values, mark.texts?.length ? texts[mark.texts[k * columns + i]] : ""].filter(Boolean).join("\n") } : null;
    };
  };
  const regions = (mark, frame) => {
    const rgb = mark.colours.map((colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))), columns = mark.index[0].length;
    cells(mark.index, (value) => (value < 0 || frame.state.hidden.has(mark.names[value]) ? null : rgb[value]), (value) => mark.names[value], frame);
    const cell = cellAt(frame.x, frame.y, columns, mark.index.length);
    return (px, py) => {
      const found = cell(px, py);
      if (!found || mark.index[found[1]][found[0]] < 0) return null;
      const [i, k] = found;
      return { distance: 1, lines: [mark.names[mark.index[k][i]], ...placeOf(frame.chart, i, k), mark.texts?.length ? texts[mark.texts[k * columns + i]] : ""].filter(Boolean).join("\n") };
    };
  };
  const contour = (mark, { plot, x, y }) => {
    const d = mark.pieces.map(([x0, y0, x1, y1]) => `M${x(x0).toFixed(1)},${y(y0).toFixed(1)}L${x(x1).toFixed(1)},${y(y1).toFixed(1)}`).join("");
    make("path", { d, stroke: "#fff", "stroke-width": 5, "stroke-linecap": "round" }, plot);
    make("path", { d, stroke: mark.colour ?? "#d3304d", "stroke-width": 2.5, "stroke-linecap": "round" }, plot);
  };
  const DRAW = { points, guide, band, rule, bars, boxes, heat, regions, contour };

  const drawChart = (holder, chart, state, label) => {
    holder.replaceChildren();
    if (chart.title) html("h3", "", holder, chart.title);
    const full = holder.clientWidth, tall = chart.height ?? 420;
    const view = state.views.get(chart) ?? { x: [chart.x.low ?? 0, chart.x.high ?? 1], y: [chart.y.low ?? 0, chart.y.high ?? 1] };
    const height = tall - (chart.x.title ? 48 : 30) - 26;
    const yTicks = ticks(chart.y, view.y, chart.y.labels ? Math.max(1, height / 15) : height / 36), most = 0.4 * full;
    const cut = (text, room) => (text.length * LETTER > room ? `${text.slice(0, Math.max(1, Math.floor(room / LETTER) - 1))}…` : text);
    const left = Math.min(most, Math.max(...yTicks.map((tick) => tickText(chart.y, tick).length * LETTER), 10)) + 10, width = Math.max(full - left - 14, 40);
    const longest = chart.x.labels ? Math.max(...chart.x.labels.map((text) => text.length)) * LETTER + 10 : 74;
    const xTicks = ticks(chart.x, view.x, Math.max(1, width / longest));
    const svg = make("svg", { viewBox: `0 0 ${full} ${tall}`, height: tall, role: "img", "aria-label": [label, chart.title].filter(Boolean).join(": ") }, holder);
    const across = scaled(chart.x, view.x, width), up = scaled(chart.y, view.y, height), x = across.at, y = (value) => height - up.at(value);
    const area = make("g", { transform: `translate(${left},26)` }, svg);
    for (const tick of xTicks) {
      if (!chart.x.labels) make("path", { class: "grid", d: `M${x(tick)},0V${height}` }, area);
      make("text", { x: x(tick), y: height + 17, "text-anchor": "middle" }, area, tickText(chart.x, tick));
    }
    for (const tick of yTicks) {
      if (!chart.y.labels) make("path", { class: "grid", d: `M0,${y(tick)}H${width}` }, area);
      const name = make("text", { x: -7, y: y(tick) + 4, "text-anchor": "end" }, area, cut(tickText(chart.y, tick), most));
      if (chart.y.labels) make("title", {}, name, chart.y.labels[tick]);
    }
    if (chart.x.title) make("text", { x: width / 2, y: height + 38, "text-anchor": "middle" }, area, chart.x.title);
    if (chart.y.title) make("text", { x: -left, y: -11 }, area, chart.y.title);
    // A map cannot be enlarged, and a mark in a cell of its border may reach beyond it.
    const plot = make("svg", { width, height, overflow: chart.x.labels && chart.y.labels ? "visible" : "hidden" }, area);
    const over = [], frame = { plot, x, y, width, height, chart, state, over };
    const under = chart.marks.filter((mark) => !state.hidden.has(mark.name)).map((mark) => DRAW[mark.type](mark, frame)).filter(Boolean);
    // Labels keep inside the plot, and move up where another one stands already.
    const taken = [];
    for (const [px, py, text, anchor] of over) {
      if (py <= -16 || py >= height) continue;
      const room = text.length * LETTER, start = anchor === "middle" ? px - room / 2 : px - room;
      const left = Math.max(0, Math.min(start, width - room));
      let top = Math.max(py, -5);
      while (taken.some((other) => left < other.left + other.room && other.left < left + room && Math.abs(top - other.top) < 13)) top -= 13;
      taken.push({ left, room, top });
      make("text", { x: left, y: top, class: "label" }, area, text);
    }
    const sheet = make("rect", { width, height, fill: "transparent" }, area);
    const spot = (event) => { const box = sheet.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    let start = null, zone = null;
    sheet.addEventListener("pointermove", (event) => {
      const [px, py] = spot(event);
      if (start) {
        zone ??= make("rect", { class: "zone" }, area);
        for (const [name, value] of Object.entries({ x: Math.min(px, start[0]), y: Math.min(py, start[1]), width: Math.abs(px - start[0]), height: Math.abs(py - start[1]) })) zone.setAttribute(name, value);
      }
      tell(event, under.map((find) => find(px, py)).filter(Boolean).sort((a, b) => a.distance - b.distance)[0]?.lines);
    });
    sheet.addEventListener("pointerleave", (event) => tell(event, null));
    if (chart.x.labels || chart.y.labels) return;
    // Dragging with a mouse zooms; a double click shows everything again.
    sheet.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") { start = spot(event); sheet.setPointerCapture(event.pointerId); } });
    sheet.addEventListener("pointerup", (event) => {
      const from = start, [px, py] = spot(event);
      [start, zone] = [null, zone?.remove()];
      if (!from || Math.abs(px - from[0]) < 8 || Math.abs(py - from[1]) < 8) return;
      state.views.set(chart, { x: [from[0], px].sort((a, b) => a - b).map(across.back), y: [from[1], py].sort((a, b) => b - a).map((p) => up.back(height - p)) });
      drawChart(holder, chart, state, label);
    });
    sheet.addEventListener("dblclick", () => { state.views.delete(chart); drawChart(holder, chart, state, label); });
  };

  const entries = (charts) => {
    const names = new Map();
    for (const mark of charts.flatMap((chart) => chart.marks)) {
      // Of what shares a map, only those that have a cell of it.
      if (mark.type === "regions") mark.names.forEach((name, i) => { if (mark.index.some((line) => line.includes(i))) names.set(name, { name, colour: mark.colours[i], type: "regions" }); });
      else if (mark.name && (mark.listed ?? true) && !names.has(mark.name)) names.set(mark.name, mark);
    }
    return [...names.values()];
  };
  const swatch = (mark, parent) => {
    // A line shows its dashes on both sides of the symbol.
    const width = mark.line ? 40 : 22;
    const svg = make("svg", { viewBox: `0 0 ${width} 14`, width, height: 14, "aria-hidden": "true" }, parent), colour = mark.colour ?? { band: "#3faf46", contour: "#d3304d" }[mark.type] ?? "var(--edge)";
    if (mark.type === "points") {
      if (mark.line) make("path", { d: `M0,7H${width}`, stroke: colour, "stroke-width": 2, "stroke-dasharray": DASHES[mark.line] ?? mark.line }, svg);
      const look = mark.symbol === "ring" ? { fill: "none", stroke: colour, "stroke-width": 2.5 } : { fill: colour };
      make("path", { d: SYMBOLS[mark.symbol || "circle"](width / 2, 7, 5), ...look }, svg);
    } else if (mark.type === "contour") make("path", { d: "M1,7H21", stroke: colour, "stroke-width": 3 }, svg);
    else make("rect", { x: 3, y: 1, width: 16, height: 12, rx: 2, fill: colour, "fill-opacity": mark.type === "band" ? 0.35 : 1 }, svg);
  };

  const menu = (parent, label, names, choose) => {
    const select = html("select", "", html("div", "controls", parent));
    select.setAttribute("aria-label", label);
    names.forEach((name, i) => { html("option", "", select, name).value = i; });
    select.addEventListener("change", () => choose(Number(select.value)));
  };
  for (const place of document.querySelectorAll(".plot[data-figure]")) {
    const figure = figures[place.dataset.figure], state = { hidden: new Set(), views: new Map(), layer: 0, chart: 0 };
    const layers = figure.charts.flatMap((chart) => chart.marks).find((mark) => mark.type === "heat")?.layers ?? [];
    const board = html("div", "", place);
    let holders = [];
    const redraw = () => holders.forEach(([holder, chart]) => drawChart(holder, chart, state, place.dataset.label));
    const fill = () => {
      board.replaceChildren();
      const charts = figure.choose ? [figure.charts[state.chart]] : figure.charts;
      const listed = entries(charts);
      if (listed.length) {
        const legend = html("div", "legend", board);
        for (const mark of listed) {
          const button = html("button", "", legend);
          button.type = "button";
          button.setAttribute("aria-pressed", String(!state.hidden.has(mark.name)));
          swatch(mark, button);
          button.append(mark.name);
          button.addEventListener("click", () => {
            if (!state.hidden.delete(mark.name)) state.hidden.add(mark.name);
            button.setAttribute("aria-pressed", String(!state.hidden.has(mark.name)));
            redraw();
          });
        }
      }
      const map = charts.flatMap((chart) => chart.marks).find((mark) => mark.type === "heat");
      if (map) {
        const layer = map.layers[Math.min(state.layer, map.layers.length - 1)], ramp = html("div", "ramp", board), ends = layer.less ? [layer.high, layer.low] : [layer.low, layer.high];
        html("span", "", ramp, `${layer.name}: ${si(ends[0], layer.unit)}`);
        html("i", "", ramp).style.background = `linear-gradient(90deg, ${HEAT.map((rgb) => `rgb(${rgb})`)})`;
        html("span", "", ramp, si(ends[1], layer.unit));
      }
      const grid = html("div", "charts", board);
      grid.style.setProperty("--columns", figure.columns ?? 1);
      holders = charts.map((chart) => [html("div", "chart", grid), chart]);
      redraw();
    };
    if (figure.choose && figure.charts.length > 1) menu(place, "what to show", figure.charts.map((chart) => chart.title), (i) => { state.chart = i; fill(); });
    else if (layers.length > 1) menu(place, "quantity", layers.map((layer) => layer.name), (i) => { state.layer = i; fill(); });
    place.append(board);
    fill();
    let width = place.clientWidth;
    new ResizeObserver(() => { if (place.clientWidth !== width) { width = place.clientWidth; redraw(); } }).observe(place);
  }
})();
