"use strict";
// Charts of the page. Each function refills one element; nothing here depends on the gallery.
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const percent = (share) => {
  if (!share) return "0\u00a0%";
  return share < 0.0001 ? "<0.01\u00a0%" : `${(100 * share).toFixed(share < 0.1 ? 2 : 1)}\u00a0%`;
};
const many = (count) => count.toLocaleString("en");

// One row of two bars for each class, on a logarithmic scale, so that rare classes are visible.
function drawClasses(place, { names, palette, here, source, chosen, choose }) {
  const total = here.reduce((sum, count) => sum + count, 0);
  const before = source && source.reduce((sum, count) => sum + count, 0);
  const length = (share) => `${share > 0.0001 ? (100 * (4 + Math.log10(share))) / 4 : 0}%`;
  const rows = names.map((name, i) => {
    const share = total ? here[i] / total : 0;
    const old = before ? source[i] / before : 0;
    const colour = `rgb(${palette[i].join(" ")})`;
    const bars = make("span", { className: "bars" });
    const bar = make("i", { className: "class" });
    bar.style.width = length(share);
    bar.style.background = colour;
    bars.append(bar);
    if (before) {
      const under = make("i", { className: "source" });
      under.style.width = length(old);
      bars.append(under);
    }
    const ratio = old && share ? `×${(share / old).toPrecision(2)}` : "";
    const row = make(
      "button", { type: "button", className: "row", title: before ? `${name}: ${percent(share)}, source ${percent(old)}` : name },
      make("span", { className: "name", textContent: name }), bars,
      make("span", { className: "number", textContent: percent(share) }),
      make("span", { className: "ratio", textContent: ratio }),
    );
    row.setAttribute("aria-pressed", String(chosen === i));
    row.addEventListener("click", () => choose(i));
    return row;
  });
  place.replaceChildren(...rows);
}

function drawStyles(place, { names, counts, chosen, choose }) {
  const most = Math.max(1, ...counts);
  const total = counts.reduce((sum, count) => sum + count, 0) || 1;
  const rows = names.map((name, i) => {
    const bar = make("i");
    bar.style.width = `${(100 * counts[i]) / most}%`;
    const row = make(
      "button", { type: "button", className: "row" },
      make("span", { className: "name", textContent: name }),
      make("span", { className: "bars" }, bar),
      make("span", { className: "number", textContent: `${many(counts[i])} (${Math.round((100 * counts[i]) / total)} %)` }),
    );
    row.setAttribute("aria-pressed", String(chosen === i));
    row.addEventListener("click", () => choose(i));
    return row;
  });
  place.className = "styles";
  place.replaceChildren(...rows);
}

// Columns of equal width, with `ticks` below and the highest value above.
function drawColumns(place, values, ticks, top) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${values.length} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  const most = Math.max(...values, 1e-9);
  values.forEach((value, i) => {
    const bar = document.createElementNS(space, "rect");
    const height = (100 * value) / most;
    for (const [key, number] of Object.entries({ x: i + 0.06, y: 100 - height, width: 0.88, height })) {
      bar.setAttribute(key, number);
    }
    svg.append(bar);
  });
  const line = document.createElementNS(space, "line");
  for (const [key, number] of Object.entries({ x1: 0, x2: values.length, y1: 100, y2: 100 })) line.setAttribute(key, number);
  svg.append(line);
  const above = make("div", { className: "axis" }, make("span", { textContent: top(most) }));
  const below = make("div", { className: "axis" }, ...ticks.map((text) => make("span", { textContent: text })));
  place.replaceChildren(above, svg, below);
}

function drawAgreement(place, values) {
  const bins = new Array(25).fill(0);
  for (const value of values) bins[Math.min(24, Math.floor(value * 25))] += 1;
  drawColumns(place, bins, ["0 %", "50 %", "100 %"], (most) => `${many(most)} scenes`);
}

function drawThroughput(place, { seconds, rates }) {
  const length = (part) => {
    const time = seconds * part;
    if (seconds < 300) return `${time.toFixed(0)} s`;
    return seconds < 7200 ? `${(time / 60).toFixed(0)} min` : `${(time / 3600).toFixed(1)} h`;
  };
  drawColumns(place, rates, [0, 0.5, 1].map(length), (most) => `${many(Math.round(most))} images/hour`);
}
