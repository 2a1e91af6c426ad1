// What a page does by itself: ages tick, a lost feed shows, the map zooms, `/` finds, charts draw. Everything works
// without it. No inline handlers, no eval: the policy of the pages allows neither.
"use strict";
(() => {
  const CUT_MS = 5000;
  const body = document.body;
  let skew = Number(body.dataset.now) - Date.now() / 1000; // their clock against ours, seconds
  let heard = performance.now();
  let cutAt = null;

  // -- ages: the same words as words.age --
  const two = (n) => String(n).padStart(2, "0");
  function age(seconds) {
    const s = Math.max(Math.floor(seconds), 0);
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 172800) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
    return `${Math.floor(s / 86400)} d`;
  }
  const clock = (date) => date.toISOString().slice(11, 19);
  function tick() {
    if (document.getElementById("past")) return; // ages on a page of the past are of its moment
    const now = Date.now() / 1000 + skew;
    for (const one of document.querySelectorAll("time.tick")) {
      const { ago, for: since } = one.dataset;
      const words = ago ? `${age(now - ago)} ago` : `for ${age(now - since)}`;
      if (one.textContent !== words) one.textContent = words;
    }
  }

  // -- the feed: silent for too long, and the page says so --
  const feed = document.getElementById("feed");
  const cut = document.getElementById("cut");
  function alive(event) {
    heard = performance.now();
    const at = Number(event.detail?.data) / 1e9;
    if (at) skew = at - Date.now() / 1000;
    if (cutAt === null) return;
    cutAt = null;
    cut.hidden = true;
    body.classList.remove("is-cut");
  }
  function watch() {
    if (!feed || document.hidden) return;
    const silent = performance.now() - heard;
    if (silent < CUT_MS) return;
    if (cutAt === null) {
      cutAt = new Date(Date.now() - silent + skew * 1000);
      cut.lastElementChild.textContent = `Cut off from the ${body.dataset.box} since ${clock(cutAt)} UTC. The values below are as of then.`;
      cut.hidden = false;
      body.classList.add("is-cut");
    }
    if (!feed._htmx?.sse) htmx.trigger(feed, "again");
  }
  if (feed) {
    feed.addEventListener("beat", alive);
    feed.addEventListener("stale", alive);
    feed.addEventListener("htmx:sse:error", (event) => {
      if (event.detail.status === 401) location.reload();
    });
    document.addEventListener("visibilitychange", () => { heard = performance.now(); });
  }
  setInterval(() => { if (cutAt === null) tick(); watch(); }, 1000);

  // -- the map: the sheet's window is kept over updates --
  let view = null;
  function zoom(map, factor, cx, cy) {
    const all = map.getAttribute("data-all").split(" ").map(Number);
    const now = view || all;
    if (!factor) view = null;
    else {
      const width = Math.min(Math.max(now[2] * factor, all[2] / 40), all[2] * 4);
      const height = (width * all[3]) / all[2];
      view = [now[0] + (now[2] - width) * cx, now[1] + (now[3] - height) * cy, width, height];
    }
    show(map);
  }
  function show(map) {
    if (!map.hasAttribute("data-all")) map.setAttribute("data-all", map.getAttribute("viewBox"));
    const all = map.getAttribute("data-all").split(" ").map(Number);
    const now = view || all;
    map.setAttribute("viewBox", now.join(" "));
    map.style.setProperty("--k", now[2] / all[2]);
    map.classList.toggle("near", now[2] < all[2] * 0.8);
    map.parentElement.querySelector(".zoom").hidden = false;
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-zoom]");
    const map = document.getElementById("map");
    if (button && map) zoom(map, { in: 0.5, out: 2, all: 0 }[button.dataset.zoom], 0.5, 0.5);
  });
  let drag = null;
  document.addEventListener("pointerdown", (event) => {
    const map = event.target.closest?.("#map");
    if (map && view && event.isPrimary) drag = { map, x: event.clientX, y: event.clientY, from: [...view], moved: false };
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag || !event.isPrimary) return;
    const unit = drag.from[2] / drag.map.clientWidth;
    const [dx, dy] = [(event.clientX - drag.x) * unit, (event.clientY - drag.y) * unit];
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 6;
    view = [drag.from[0] - dx, drag.from[1] - dy, drag.from[2], drag.from[3]];
    show(drag.map);
  });
  document.addEventListener("pointerup", () => { setTimeout(() => { drag = null; }); });
  document.addEventListener("click", (event) => { if (drag?.moved) event.preventDefault(); }, true);

  // -- after each part that came fresh --
  function fresh() {
    const map = document.getElementById("map");
    if (map) {
      if (map.getAttribute("data-all") === null || view) show(map);
      else map.parentElement.querySelector(".zoom").hidden = false;
    }
    const live = document.getElementById("live");
    if (live?.dataset.title) document.title = document.title.replace(/^[^·]*/, `${live.dataset.title} `);
    const asof = document.getElementById("asof");
    if (live?.dataset.now && asof) {
      asof.textContent = `${new Date(live.dataset.now * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
    }
  }
  document.addEventListener("htmx:after:swap", fresh);
  if (document.getElementById("map")) show(document.getElementById("map"));

  // -- keyboard: `/` finds; an error summary is read first --
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
    const find = document.querySelector("[data-slash]");
    if (find) { event.preventDefault(); find.focus(); find.select(); }
  });
  document.querySelector(".summary")?.focus();

  // -- charts: uPlot over the drawing that the server made --
  const colour = (name) => getComputedStyle(body).getPropertyValue(name).trim();
  // Nothing is drawn where nothing was heard: a point without a value stands there, and at both ends of the time.
  function gapped(s, { from, to, gap }) {
    const data = [[], [], [], []];
    const put = (...point) => point.forEach((one, i) => data[i].push(one));
    if (from < s.at_s[0]) put(Number(from), null, null, null);
    s.at_s.forEach((at, i) => {
      if (i && at - s.at_s[i - 1] > gap) put(s.at_s[i - 1] + 1, null, null, null);
      put(at, s.high[i], s.mean[i], s.low[i]);
    });
    if (to > s.at_s.at(-1)) put(Number(to), null, null, null);
    return data;
  }
  function draw(box) {
    fetch(box.dataset.series, { headers: { accept: "application/json" } }).then((r) => (r.ok ? r.json() : null)).then((s) => {
      if (!s || !s.at_s.length) return;
      const data = gapped(s, box.dataset);
      if (box.plot) { box.plot.setData(data); return; }
      const ink = getComputedStyle(box).color, line = getComputedStyle(box.querySelector("svg path") || box).stroke;
      const axis = { stroke: ink, grid: { stroke: getComputedStyle(box).borderColor, width: 1 }, ticks: { show: false }, font: "13px system-ui" };
      const hours = (u, at, axis_, space, step) => at.map((s) => {
        const iso = new Date(s * 1000).toISOString();
        return step >= 86400 ? iso.slice(5, 10) : step >= 60 ? iso.slice(11, 16) : iso.slice(11, 19);
      });
      const value = (u, v) => (v == null ? "–" : `${Number(v.toPrecision(4))} ${s.unit}`);
      box.plot = new uPlot({
        width: box.clientWidth, height: 220, tzDate: (s) => uPlot.tzDate(new Date(s * 1000), "UTC"), cursor: { y: false }, legend: { live: true },
        series: [{ label: "At", value: (u, v) => (v == null ? "–" : `${clock(new Date(v * 1000))} UTC`) },
          { label: "High", stroke: line, width: 0.5, points: { show: false }, value }, { label: "Mean", stroke: line, width: 2, value },
          { label: "Low", stroke: line, width: 0.5, points: { show: false }, value }],
        bands: [{ series: [1, 3], fill: colour("--band") || "rgb(0 0 0 / 0.08)" }],
        axes: [{ ...axis, values: hours, space: 70 }, { ...axis, size: 64, values: (u, v) => v.map((one) => `${one} ${s.unit}`) }],
      }, data, box);
      box.classList.add("drawn");
      new ResizeObserver(() => box.plot.setSize({ width: box.clientWidth, height: 220 })).observe(box);
    }).catch(() => {});
  }
  if (window.uPlot) {
    const boxes = document.querySelectorAll("[data-series]");
    boxes.forEach(draw);
    let last = performance.now();
    feed?.addEventListener("stale", () => {
      if (performance.now() - last > 10000) { last = performance.now(); boxes.forEach(draw); }
    });
  }
})();
