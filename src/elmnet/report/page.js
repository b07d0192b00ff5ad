"use strict";
// Names points, hides series, changes axes. The page is complete without it.
for (const figure of document.querySelectorAll("figure.chart")) start(figure);

function start(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot"), drawing = plot.querySelector(".drawing");
  const views = { "": drawing.innerHTML };
  for (const other of figure.querySelectorAll("template")) views[other.dataset.view] = other.innerHTML;
  const switched = new Set(), hidden = new Set();
  const ring = add(plot, "div", "ring"), tip = add(plot, "div", "tip");
  tip.setAttribute("role", "status");
  let at = null; // [axis, series, point]
  forget();

  const controls = document.createElement("div");
  controls.className = "controls";
  controls.setAttribute("role", "group");
  controls.setAttribute("aria-label", "Series and axes");
  data.axes.forEach((axis) => axis.series.forEach((series) => {
    if (data.axes.reduce((count, one) => count + one.series.length, 0) < 2) return;
    const button = add(controls, "button", "series", series.name);
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = series.colour;
    button.prepend(swatch);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      if (!hidden.delete(series.id)) hidden.add(series.id);
      button.setAttribute("aria-pressed", String(!hidden.has(series.id)));
      forget();
      hide();
    });
  }));
  for (const name of Object.keys(data.switches)) {
    const button = add(controls, "button", "axis", `logarithmic ${name}`);
    const show = () => button.setAttribute("aria-pressed", String((data.switches[name] === "log") === switched.has(name)));
    show();
    button.addEventListener("click", () => {
      if (!switched.delete(name)) switched.add(name);
      show();
      drawing.innerHTML = views[view()];
      forget();
      hide();
    });
  }
  if (controls.children.length) plot.after(controls);

  if (points().length) {
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-label", `${figure.dataset.title}: arrow keys read its points`);
    plot.addEventListener("pointermove", (event) => {
      const near = points().map((one) => [Math.hypot(...minus(place(one), [event.clientX, event.clientY])), one]);
      const [distance, nearest] = near.reduce((a, b) => (b[0] < a[0] ? b : a), [Infinity, null]);
      if (distance < 30) tell(nearest); else forget();
    });
    plot.addEventListener("pointerleave", forget);
    plot.addEventListener("blur", forget);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Escape") forget();
      if (!step) return;
      event.preventDefault();
      move(...step);
    });
  }

  function view() {
    return [...Object.keys(data.switches)].filter((name) => switched.has(name)).join("");
  }

  function hide() {
    for (const axis of data.axes) for (const series of axis.series)
      for (const part of drawing.querySelectorAll(`[id^="${series.id}"]`))
        part.style.display = hidden.has(series.id) ? "none" : "";
  }

  function points() { // that can be seen
    const found = [];
    data.axes.forEach((axis, a) => axis.series.forEach((series, s) => {
      if (hidden.has(series.id)) return;
      series.points.forEach((_, p) => { if (share([a, s, p]).every((u) => u >= -0.001 && u <= 1.001)) found.push([a, s, p]); });
    }));
    return found;
  }

  function share([a, s, p]) { // of the axis, from its beginning to its end
    const [x0, x1, xScale, y0, y1, yScale] = data.views[view()][a];
    const [x, y] = data.axes[a].series[s].points[p];
    return [along(x, x0, x1, xScale), along(y, y0, y1, yScale)];
  }

  function place(one) { // in the window
    const [u, v] = share(one);
    const area = document.getElementById(data.axes[one[0]].id).getBoundingClientRect();
    return [area.left + u * area.width, area.bottom - v * area.height];
  }

  function tell(one) {
    at = one;
    const axis = data.axes[one[0]], series = axis.series[one[1]], [x, y] = series.points[one[2]];
    const outer = plot.getBoundingClientRect(), [left, top] = minus(place(one), [outer.left, outer.top]);
    ring.hidden = tip.hidden = false;
    tip.textContent = `${series.name}\n${axis.x}: ${number(x)}\n${axis.y}: ${number(y)}`;
    ring.style.left = `${left}px`;
    ring.style.top = `${top}px`;
    tip.style.left = `${Math.max(0, Math.min(left + 10, outer.width - tip.offsetWidth))}px`;
    tip.style.top = `${top > tip.offsetHeight + 12 ? top - tip.offsetHeight - 10 : top + 12}px`;
  }

  function forget() {
    at = null;
    ring.hidden = tip.hidden = true;
    tip.textContent = "";
  }

  function move(series, point) {
    const seen = points();
    if (!seen.length) return;
    const lines = [...new Set(seen.map(([a, s]) => `${a}.${s}`))];
    const mine = at ? lines.indexOf(`${at[0]}.${at[1]}`) : 0;
    const line = lines[(mine + series + lines.length) % lines.length];
    const row = seen.filter(([a, s]) => `${a}.${s}` === line);
    const now = at ? row.findIndex((one) => one[2] === at[2]) : -1;
    tell(row[at && point ? Math.max(0, Math.min(row.length - 1, now + point)) : Math.max(0, Math.min(now, row.length - 1))]);
  }
}

function add(parent, kind, name, words = "") {
  const element = document.createElement(kind);
  element.className = name;
  element.textContent = words;
  if (kind === "button") element.type = "button";
  return parent.appendChild(element);
}

function along(value, from, to, scale) {
  if (scale === "log") [value, from, to] = [value, from, to].map(Math.log);
  return (value - from) / (to - from);
}

function minus(a, b) {
  return a.map((value, i) => value - b[i]);
}

function number(value) {
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : value.toLocaleString("en", { maximumSignificantDigits: 5 });
}
