// The gallery: only scenes in view have elements, so the number of scenes does not matter to the browser.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { scenes, texts, classes } = data;
  const total = scenes.id.length;
  const GAP = 10, CAPTION = 24, SETTLED = 90; // pixels, pixels, milliseconds
  const find = (id) => document.getElementById(id);
  const grid = find("grid"), viewer = find("viewer"), root = document.documentElement;
  const style = find("style"), chosenClass = find("class"), order = find("order"), search = find("search");
  const styleName = (i) => (texts.style[i] === "none" ? "without style" : texts.style[i]);
  const address = (i, kind) => {
    if (data.embedded) return data.embedded[kind][i];
    const id = encodeURIComponent(scenes.id[i]);
    return kind === "image" ? `images/${id}.png` : `labels/${id}_labelTrainIds.png`;
  };

  let visible = []; // numbers of the scenes that pass the filters, in the chosen order
  let opened = -1; // place in `visible` of the scene in the viewer

  // ---- filters ------------------------------------------------------------------------------------------------
  const searchable = [];
  const haystack = (i) => {
    searchable[i] ??= `${scenes.id[i]} ${texts.source[scenes.source[i]]} ${texts.prompt[scenes.prompt[i]]}`.toLowerCase();
    return searchable[i];
  };
  const wanted = () => {
    const [how, which] = chosenClass.value ? chosenClass.value.split(":") : [];
    const text = search.value.trim().toLowerCase();
    return { style: style.value === "" ? -1 : Number(style.value), how, which: Number(which), text };
  };
  function passes(i, w) {
    if (w.style >= 0 && scenes.style[i] !== w.style) return false;
    if (w.how === "shows" && !scenes.pixels[i][w.which]) return false;
    if (w.how === "drawn" && texts.class[scenes.class[i]] !== classes[w.which]) return false;
    return !w.text || haystack(i).includes(w.text);
  }
  const ORDERS = {
    job: () => 0,
    last: (a, b) => b - a,
    low: (a, b) => (scenes.agreement[a] ?? 2) - (scenes.agreement[b] ?? 2),
    most: (a, b, which) => scenes.pixels[b][which] - scenes.pixels[a][which],
  };
  function select() {
    const w = wanted();
    visible = [];
    for (let i = 0; i < total; i += 1) if (passes(i, w)) visible.push(i);
    const most = order.querySelector('[value="most"]');
    most.disabled = !w.how;
    if (most.disabled && order.value === "most") order.value = "job";
    if (order.value !== "job") visible.sort((a, b) => ORDERS[order.value](a, b, w.which) || a - b);
    const all = data.all ? ` (of ${many(data.all)} in the folder)` : "";
    find("count").textContent = `${many(visible.length)} of ${many(total)} scenes${all}`;
    figures(w);
    clear();
    layout();
  }

  // ---- figures ------------------------------------------------------------------------------------------------
  const toggle = (control, value) => {
    control.value = control.value === value ? "" : value;
    select();
  };
  function figures(w) {
    const here = new Array(classes.length).fill(0), counts = new Array(texts.style.length).fill(0), values = [];
    for (const i of visible) {
      scenes.pixels[i].forEach((count, c) => { here[c] += count; });
      counts[scenes.style[i]] += 1;
      if (scenes.agreement && scenes.agreement[i] !== null) values.push(scenes.agreement[i]);
    }
    drawClasses(find("classes"), {
      names: classes, palette: data.palette, here, source: data.source,
      chosen: w.how === "shows" ? w.which : -1, choose: (c) => toggle(chosenClass, `shows:${c}`),
    });
    drawStyles(find("styles"), {
      names: texts.style.map((_, i) => styleName(i)), counts, chosen: w.style, choose: (i) => toggle(style, String(i)),
    });
    if (scenes.agreement) {
      drawAgreement(find("agreement"), values);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      find("agreement-note").textContent = values.length ? `mean ${percent(mean)}` : "";
    }
  }

  // ---- grid ---------------------------------------------------------------------------------------------------
  const shown = new Map(), spare = [];
  let columns = 1, width = 0, height = 0, settled = 0, lastTop = 0;
  function clear() {
    for (const cell of shown.values()) retire(cell);
    shown.clear();
  }
  function retire(cell) {
    cell.hidden = true;
    for (const picture of [cell.parts.image, cell.parts.over]) picture.removeAttribute("src");
    spare.push(cell);
  }
  function layout() {
    const tile = Number(find("tile").value), space = grid.clientWidth;
    columns = Math.max(1, Math.floor((space + GAP) / (tile + GAP)));
    width = (space - GAP * (columns - 1)) / columns;
    height = width * data.ratio + CAPTION + GAP;
    const rows = Math.ceil(visible.length / columns);
    grid.style.height = `${Math.max(rows * height, 120)}px`;
    find("empty")?.remove();
    const nothing = { id: "empty", className: "empty", textContent: "No scene matches these filters." };
    if (!visible.length) grid.append(make("p", nothing));
    for (const [place, cell] of shown) put(cell, place);
    draw();
  }
  function put(cell, place) {
    const x = (place % columns) * (width + GAP), y = Math.floor(place / columns) * height;
    Object.assign(cell.style, { width: `${width}px`, height: `${height - GAP}px`, transform: `translate(${x}px, ${y}px)` });
    cell.parts.frame.style.height = `${width * data.ratio}px`;
  }
  function newCell() {
    const image = make("img", { alt: "", decoding: "async" });
    const over = make("img", { alt: "", decoding: "async", className: "label over" });
    const frame = make("div", { className: "frame" }, image, over);
    const title = make("span"), note = make("span");
    const cell = make("button", { type: "button", className: "cell" }, frame, make("div", { className: "caption" }, title, note));
    cell.addEventListener("click", () => show(cell.place));
    return Object.assign(cell, { place: -1, parts: { image, over, frame, title, note } });
  }
  function fill(cell) {
    const i = visible[cell.place], { image, over } = cell.parts;
    if (!image.hasAttribute("src")) image.src = address(i, "image");
    if (overlay > 0 && !over.hasAttribute("src")) over.src = address(i, "label");
  }
  function draw() {
    const top = -grid.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / height) - 1) * columns;
    const end = Math.min(visible.length, (Math.ceil((top + window.innerHeight) / height) + 1) * columns);
    for (const [place, cell] of shown) {
      if (place < first || place >= end) {
        retire(cell);
        shown.delete(place);
      }
    }
    // Elements are in visual order, which the tab key follows.
    const lowest = Math.min(...shown.keys()), before = shown.get(lowest) ?? null;
    for (let place = first; place < end; place += 1) {
      if (shown.has(place)) continue;
      const i = visible[place], cell = spare.pop() ?? newCell();
      const drawn = texts.class[scenes.class[i]];
      cell.place = place;
      cell.hidden = false;
      cell.parts.title.textContent = drawn ? `${styleName(scenes.style[i])} · ${drawn}` : styleName(scenes.style[i]);
      cell.parts.note.textContent = scenes.agreement && scenes.agreement[i] !== null ? percent(scenes.agreement[i]) : "";
      grid.insertBefore(cell, place < lowest ? before : null);
      put(cell, place);
      shown.set(place, cell);
    }
    // Images that are only scrolled past are not loaded.
    const far = Math.abs(top - lastTop) > 2 * window.innerHeight;
    lastTop = top;
    clearTimeout(settled);
    if (far) settled = setTimeout(() => shown.forEach(fill), SETTLED);
    else shown.forEach(fill);
  }

  // ---- label overlay and viewer -------------------------------------------------------------------------------
  let overlay = 0;
  function setOverlay(value) {
    overlay = Number(value);
    root.style.setProperty("--overlay", overlay / 100);
    for (const slider of [find("overlay"), find("viewer-overlay")]) slider.value = overlay;
    grid.classList.toggle("unlabelled", overlay === 0);
    if (overlay > 0) shown.forEach(fill);
  }
  function show(place) {
    if (place < 0 || place >= visible.length) return;
    opened = place;
    const i = visible[place];
    find("viewer-title").textContent = scenes.id[i];
    find("large-image").src = address(i, "image");
    for (const id of ["large-over", "large-label"]) find(id).src = address(i, "label");
    const [x, y, w, h] = scenes.crop[i];
    const held = classes.filter((_, c) => scenes.pixels[i][c]).join(", ");
    facts(find("details"), [
      ["style", styleName(scenes.style[i])], ["crop chosen for", texts.class[scenes.class[i]] || "any pixel"],
      ["source", texts.source[scenes.source[i]]], ["crop", `${w} x ${h} at ${x}, ${y}`], ["seed", scenes.seed[i]],
      ...(scenes.agreement && scenes.agreement[i] !== null ? [["agreement", percent(scenes.agreement[i])]] : []),
      ["prompt", texts.prompt[scenes.prompt[i]] || "(empty)"], ["classes", held],
    ]);
    if (!viewer.open) viewer.showModal();
  }
  function facts(place, rows) {
    place.replaceChildren(...rows.map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  }

  // ---- start --------------------------------------------------------------------------------------------------
  function options() {
    const counted = (column, size) => column.reduce((sums, value) => { sums[value] += 1; return sums; }, new Array(size).fill(0));
    const styles = counted(scenes.style, texts.style.length);
    style.append(new Option("all", ""), ...styles.map((count, i) => new Option(`${styleName(i)} (${many(count)})`, i)));
    const showing = classes.map((_, c) => scenes.pixels.reduce((sum, row) => sum + (row[c] > 0), 0));
    const drawn = classes.map((name) => scenes.class.reduce((sum, c) => sum + (texts.class[c] === name), 0));
    const group = (label, how, counts) => {
      const part = make("optgroup", { label });
      counts.forEach((count, c) => { if (count) part.append(new Option(`${classes[c]} (${many(count)})`, `${how}:${c}`)); });
      return part;
    };
    chosenClass.append(new Option("all", ""), group("in the scene", "shows", showing));
    if (drawn.some(Boolean)) chosenClass.append(group("crop chosen for", "drawn", drawn));
    order.append(new Option("as generated", "job"), new Option("last first", "last"));
    if (scenes.agreement) order.append(new Option("lowest agreement first", "low"));
    order.append(new Option("most of the class first", "most"));
  }
  find("title").textContent = data.title;
  facts(find("facts"), data.facts);
  find("classes-note").textContent = data.source
    ? "pixels, log scale; grey: source label maps; × ratio of both" : "pixels, log scale";
  root.style.setProperty("--aspect", 1 / data.ratio);
  options();
  find("agreement-box").hidden = !scenes.agreement;
  find("throughput-box").hidden = !data.throughput;
  if (data.throughput) {
    drawThroughput(find("throughput"), data.throughput);
    find("throughput-note").textContent = "by file times";
  }
  for (const control of [style, chosenClass, order]) control.addEventListener("change", select);
  let typing = 0;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(select, 150); });
  find("controls").addEventListener("submit", (event) => event.preventDefault());
  find("reset").addEventListener("click", () => {
    style.value = chosenClass.value = search.value = "";
    order.value = "job";
    select();
  });
  find("tile").addEventListener("input", layout);
  for (const id of ["overlay", "viewer-overlay"]) find(id).addEventListener("input", (event) => setOverlay(event.target.value));
  find("previous").addEventListener("click", () => show(opened - 1));
  find("next").addEventListener("click", () => show(opened + 1));
  find("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") show(opened - 1);
    if (event.key === "ArrowRight") show(opened + 1);
  });
  let waiting = false;
  window.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }, { passive: true });
  window.addEventListener("resize", layout);
  setOverlay(0);
  select();
})();
