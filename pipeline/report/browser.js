"use strict";
// The browser of queries: reads the data of the page, lists and sorts the queries, draws one along its time.
// Whatever comes from outside reaches the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const level = new Map([...data.levels].map((character, i) => [character, i / (data.levels.length - 1)]));
  const systems = data.systems.map(([name, seeds, probabilities], i) => ({ name, seeds, probabilities, style: "k" + (i % 8) }));
  const queries = data.queries.map(([id, text, vid, seconds, kind, clip, truth, annotated, found], index) => ({
    index, id, text, vid, kind, clip, annotated: scores(annotated), truth: groups(truth, 2),
    answers: found.map(([windows, saliency, score]) => ({ windows: groups(windows, 4), saliency: scores(saliency), score })),
    seconds, words: `${text} ${vid} ${id}`.toLowerCase(),
  }));
  const element = (id) => document.getElementById(id);
  const list = element("list"), detail = element("detail");
  const STEP = 60;
  let order = "given", current = -1, shown = [], drawn = 0, unfolded = false;

  function scores(characters) { return [...characters].map((c) => level.get(c)); }
  function groups(flat, size) {
    return Array.from({ length: flat.length / size }, (_, i) => flat.slice(i * size, (i + 1) * size));
  }
  function make(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function draw(parent, name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }
  const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const clock = (value) => String(Math.round(value * 10) / 10);

  // Orders of the list: each gives a number to sort by, lowest first; null leaves a query out.
  const score = (query) => query.answers[+element("system").value].score;
  const sureOf = (query) => (query.answers[+element("system").value].windows[0] || [0, 0, 0])[2];
  const ORDERS = {
    given: ["As annotated", (query) => query.index],
    worst: ["Worst first", (query) => (score(query) === null ? null : score(query) - sureOf(query) * 1e-6)],
    best: ["Best first", (query) => (score(query) === null ? null : -score(query) - sureOf(query) * 1e-6)],
    sure: ["Sure and wrong", (query) => (score(query) === null || score(query) >= 0.1 ? null : -sureOf(query))],
    apart: ["Systems disagree", (query) => {
      const known = query.answers.map((answer) => answer.score).filter((value) => value !== null);
      return known.length < 2 ? null : Math.min(...known) - Math.max(...known);
    }],
  };
  if (systems.length < 2) delete ORDERS.apart;
  if (data.score !== "IoU") delete ORDERS.sure;

  function refresh() {
    const words = element("search").value.toLowerCase().trim(), kind = element("kind").value, by = ORDERS[order][1];
    shown = queries
      .filter((query) => (!kind || query.kind === kind) && (!words || query.words.includes(words)))
      .map((query) => [by(query), query])
      .filter(([place]) => place !== null)
      .sort((a, b) => a[0] - b[0] || a[1].index - b[1].index)
      .map(([, query]) => query);
    element("count").textContent = `${shown.length.toLocaleString("en")} of ${queries.length.toLocaleString("en")} queries`;
    for (const button of element("orders").children) button.setAttribute("aria-pressed", button.value === order);
    list.replaceChildren();
    drawn = 0;
    more();
    list.scrollTop = 0;
  }
  function more() {
    list.querySelector(".more")?.remove();
    for (const query of shown.slice(drawn, drawn + STEP)) {
      const said = make("span", { class: "said" }, query.text), values = make("span", { class: "scores" }, query.kind);
      query.answers.forEach((answer, i) => {
        const value = make("span", { class: systems[i].style, title: `${systems[i].name}: ${data.score}` });
        value.append(`${data.score} ${number(answer.score)}`);
        values.append(value);
      });
      const item = make("button", { class: "item", type: "button", "data-index": query.index }, said, values);
      if (query.index === current) item.setAttribute("aria-current", "true");
      list.append(item);
    }
    drawn = Math.min(drawn + STEP, shown.length);
    if (drawn < shown.length) list.append(make("button", { class: "more", type: "button" }, `${STEP} more`));
  }

  function open(index, scroll = false) {
    const query = queries[index];
    if (!query) return;
    current = index;
    for (const item of list.querySelectorAll(".item")) {
      if (+item.dataset.index === index) item.setAttribute("aria-current", "true");
      else item.removeAttribute("aria-current");
    }
    const place = shown.indexOf(query);
    const step = (by, words) => {
      const button = make("button", { type: "button", "aria-label": words, title: words }, by < 0 ? "←" : "→");
      button.disabled = place < 0 || !shown[place + by];
      button.addEventListener("click", () => go(place + by));
      return button;
    };
    const length = query.seconds === null ? "length unknown" : `${clock(query.seconds)} s`;
    const truth = query.truth.map(([start, end]) => `${clock(start)}–${clock(end)}`).join(", ") || "none";
    detail.replaceChildren(
      make("div", { class: "steps" }, step(-1, "previous query"), step(1, "next query")),
      make("h3", {}, query.text),
      make("p", { class: "meta" }, `query ${query.id} · video ${query.vid} · ${length} · ${query.kind} · true windows (s): ${truth}`),
      timeline(query), windowsTable(query),
    );
    if (scroll) element("queries").scrollIntoView();
  }
  function go(place) {
    while (place >= drawn && drawn < shown.length) more();
    open(shown[place].index);
    history.replaceState(null, "", "#query-" + shown[place].index);
    const item = list.querySelector("[aria-current=true]");
    if (item) list.scrollTop = item.offsetTop - list.offsetTop - list.clientHeight / 3;
  }

  function timeline(query) {
    const lists = query.answers.map((answer) => answer.saliency.length);
    const ends = [...query.truth.map((w) => w[1]), ...query.answers.flatMap((a) => a.windows.map((w) => w[1]))];
    const length = query.seconds ?? Math.max(1, query.clip * Math.max(0, ...lists), ...ends);
    const width = Math.max(280, detail.clientWidth - 2 * parseFloat(getComputedStyle(detail).paddingLeft));
    const x = (seconds) => 4 + (Math.min(Math.max(seconds, 0), length) / length) * (width - 8);
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const shade = draw(svg, "g", {});
    let y = 14;
    const bar = (style, top, height, [start, end], title) => {
      const box = { class: style, x: x(start), y: top, width: Math.max(1.5, x(end) - x(start)), height, rx: 1.5 };
      draw(draw(svg, "rect", box), "title", {}, title);
    };
    draw(svg, "text", { class: "name", x: 4, y }, "true windows");
    for (const window of query.truth) bar("true-window", y + 5, 10, window, `${clock(window[0])}–${clock(window[1])} s`);
    y += 34;
    query.answers.forEach((answer, i) => {
      if (!answer.windows.length) return;
      const group = systems[i].style;
      draw(svg, "text", { class: `name ${group}`, x: 4, y }, systems[i].name + (systems[i].seeds > 1 ? " (first seed)" : ""));
      answer.windows.forEach((window, rank) => {
        const top = y + 6 + rank * 11;
        const title = `${rank + 1}: ${clock(window[0])}–${clock(window[1])} s, confidence ${number(window[2], 3)}, IoU ${number(window[3])}`;
        bar(`bar ${group}` + (rank ? " low" : ""), top, rank ? 6 : 8, window, title);
        const right = x(window[1]) + 34 < width;
        const at = { x: right ? x(window[1]) + 4 : x(window[0]) - 4, y: top + 8, "text-anchor": right ? "start" : "end", class: "small" };
        draw(svg, "text", at, number(window[2]));
      });
      y += 6 + answer.windows.length * 11 + 20;
    });
    if (query.annotated.length || lists.some((count) => count)) {
      const high = 110, base = y + 8 + high;
      draw(svg, "text", { x: 4, y, class: "name" }, "saliency" + (query.annotated.length ? " (grey: annotators)" : ""));
      const at = (value) => base - value * high;
      const steps = (values) => values.map((value, i) => `H${x(i * query.clip)}V${at(value)}H${x((i + 1) * query.clip)}`).join("");
      if (query.annotated.length) draw(svg, "path", { class: "annotated", d: `M${x(0)} ${base}${steps(query.annotated)}V${base}Z` });
      query.answers.forEach((answer, i) => {
        const points = answer.saliency.map((value, k) => `${x((k + 0.5) * query.clip)} ${at(value)}`);
        if (points.length) draw(svg, "path", { class: `line ${systems[i].style}`, d: "M" + points.join("L") });
      });
      y = base + 6;
    }
    const bottom = y + 4;
    for (const [start, end] of query.truth) {
      draw(shade, "rect", { class: "truth", x: x(start), y: 0, width: Math.max(1, x(end) - x(start)), height: bottom });
    }
    draw(svg, "line", { class: "grid", x1: 4, x2: width - 4, y1: bottom, y2: bottom });
    const unit = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((u) => length / u <= width / 60) ?? 7200;
    for (let t = 0; t <= length; t += unit) {
      const anchor = t === 0 ? "start" : x(t) > width - 24 ? "end" : "middle";
      draw(svg, "text", { x: x(t), y: bottom + 15, "text-anchor": anchor }, t === 0 ? "0 s" : String(t));
    }
    const cursor = draw(svg, "line", { class: "cursor", y1: 0, y2: bottom, visibility: "hidden" });
    const reading = draw(svg, "text", { class: "small", y: 10, visibility: "hidden" });
    svg.addEventListener("pointermove", (event) => {
      const across = (event.clientX - svg.getBoundingClientRect().left - 4) / (width - 8);
      const t = Math.min(Math.max(across, 0), 1) * length;
      for (const [key, value] of [["x1", x(t)], ["x2", x(t)], ["visibility", "visible"]]) cursor.setAttribute(key, value);
      reading.textContent = `${t.toFixed(1)} s`;
      const left = x(t) > width - 50;
      for (const [key, value] of [["x", x(t) + (left ? -4 : 4)], ["text-anchor", left ? "end" : "start"], ["visibility", "visible"]]) {
        reading.setAttribute(key, value);
      }
    });
    svg.addEventListener("pointerleave", () => [cursor, reading].forEach((node) => node.setAttribute("visibility", "hidden")));
    const spoken = `Timeline of ${clock(length)} seconds; below it, its windows in numbers.`;
    for (const [key, value] of [["class", "timeline"], ["viewBox", `0 0 ${width} ${bottom + 20}`], ["role", "img"], ["aria-label", spoken]]) {
      svg.setAttribute(key, value);
    }
    return svg;
  }

  function windowsTable(query) {
    const head = make("tr");
    for (const words of ["", "rank", "window (s)", "confidence", "IoU"]) head.append(make("th", words && words !== "rank" ? { class: "number" } : {}, words));
    const body = make("tbody");
    query.answers.forEach((answer, i) => answer.windows.forEach((window, rank) => {
      const name = make("th", { class: systems[i].style, scope: "row" }, rank ? "" : systems[i].name);
      const cells = [`${clock(window[0])}–${clock(window[1])}`, number(window[2], 3), number(window[3])];
      body.append(make("tr", {}, name, make("td", {}, String(rank + 1)), ...cells.map((cell) => make("td", { class: "number" }, cell))));
    }));
    const scaled = query.answers.some((answer, i) => answer.saliency.length && !systems[i].probabilities);
    const note = scaled ? [make("p", { class: "note" }, "Clip scores that are no probabilities are scaled to their range in this video.")] : [];
    const table = make("table", {}, make("thead", {}, head), body);
    const fold = make("details", unfolded ? { open: "" } : {}, make("summary", {}, "Windows in numbers"), table);
    fold.addEventListener("toggle", () => { unfolded = fold.open; });
    return make("div", { class: "wide" }, ...note, ...(body.children.length ? [fold] : []));
  }

  function hash() {
    const found = /^#query-(\d+)$/.exec(location.hash);
    if (found) open(+found[1], true);
  }

  element("kind").append(make("option", { value: "" }, "all"));
  for (const kind of [...new Set(queries.map((query) => query.kind))].sort()) element("kind").append(make("option", { value: kind }, kind));
  systems.forEach((system, i) => element("system").append(make("option", { value: i }, system.name)));
  for (const [name, [words]] of Object.entries(ORDERS)) element("orders").append(make("button", { type: "button", value: name }, words));
  element("orders").addEventListener("click", (event) => {
    if (event.target.value in ORDERS) { order = event.target.value; refresh(); if (shown.length) go(0); }
  });
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.classList.contains("more")) more();
    else if (button) go(shown.findIndex((query) => query.index === +button.dataset.index));
  });
  element("search").addEventListener("input", refresh);
  element("kind").addEventListener("change", refresh);
  element("system").addEventListener("change", refresh);
  window.addEventListener("hashchange", hash);
  let redraw;
  window.addEventListener("resize", () => { clearTimeout(redraw); redraw = setTimeout(() => open(current), 150); });
  element("browser").hidden = false;
  refresh();
  open(shown.length ? shown[0].index : -1);
  hash();
})();
