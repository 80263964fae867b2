"use strict";
// Data comes in files of JavaScript that call normpipe(name, value): fetch() reads no local files.
// Every value is shown as text, never as HTML: keys and labels may contain anything.
const waiting = new Map();
let meta;

function normpipe(name, value) {
  if (name === "meta") { meta = value; start(); return; }
  waiting.get(name).done(value);
}

/** Load a data file once; return a promise of its value. */
function load(name) {
  let entry = waiting.get(name);
  if (!entry) {
    entry = {};
    entry.promise = new Promise((done, failed) => { entry.done = done; entry.failed = failed; });
    waiting.set(name, entry);
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onerror = () => entry.failed(new Error(`data/${name}.js is missing`));
    document.head.append(script);
  }
  return entry.promise;
}

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };

function unpacked(value) {
  const text = atob(value.data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new ARRAYS[value.type](bytes.buffer);
}

const arrays = new Map();
async function array(name) {
  if (!arrays.has(name)) arrays.set(name, load(name).then(unpacked));
  return arrays.get(name);
}
const place = (name) => meta.columns.findIndex((column) => column.name === name);
const values = (name) => array(`c${place(name)}`);

function element(tag, text, ...classes) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  made.classList.add(...classes.filter(Boolean));
  return made;
}
const by = (id) => document.getElementById(id);
const short = (value) => Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));

function start() {
  if (document.body.dataset.page === "faces") startFaces(); else startOverview();
}

// ---------------------------------------------------------------- overview

function bars(counts, link) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${counts.length} 10`);
  svg.setAttribute("preserveAspectRatio", "none");
  const most = Math.max(1, ...counts);
  counts.forEach((count, i) => {
    const box = document.createElementNS(svg.namespaceURI, "rect");
    const height = count ? Math.max(0.25, 10 * count / most) : 0;
    for (const [name, value] of Object.entries({ x: i + 0.05, y: 10 - height, width: 0.9, height }))
      box.setAttribute(name, value);
    const title = document.createElementNS(svg.namespaceURI, "title");
    title.textContent = count;
    box.append(title);
    const anchor = document.createElementNS(svg.namespaceURI, "a");
    anchor.setAttribute("href", link(i));
    anchor.append(box);
    svg.append(anchor);
  });
  return svg;
}

function startOverview() {
  const names = new Set(meta.distributions.flatMap((one) => Object.keys(one.by)));
  for (const name of names) by("by").append(new Option(name, name));
  by("by").onchange = draw;
  draw();
  if (by("twice")) values("near_duplicates").then((found) => {
    by("twice").textContent = found.reduce((sum, value) => sum + (value > 0), 0);
  });
  function draw() {
    by("plots").replaceChildren();
    for (const one of meta.distributions) {
      const width = (one.high - one.low) / one.all.length, last = one.all.length - 1;
      const link = (more) => (i) => {
        const low = i ? one.low + i * width : "", high = i < last ? one.low + (i + 1) * width : "";
        return `faces.html#${hash([[one.name, `${low}..${high}`], ...more, ["sort", one.name]])}`;
      };
      const box = element("div", undefined, "plot");
      const title = element("h3", one.name);
      title.title = meta.meanings[one.name] || "";
      box.append(title, bars(one.all, link([])));
      box.append(element("div", `${short(one.low)} to ${short(one.high)}, median ${short(one.median)}, ${one.known} rows`, "soft"));
      for (const [word, counts] of Object.entries(one.by[by("by").value] || {})) {
        const row = element("div", undefined, "small"), name = element("span", word);
        name.title = word;
        row.append(name, bars(counts, link([[by("by").value, word]])));
        box.append(row);
      }
      by("plots").append(box);
    }
    if (!meta.distributions.length) by("plots").append(element("p", "No face was measured.", "soft"));
  }
}

// ---------------------------------------------------------------- faces

function hash(pairs) {
  return pairs.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`).join("&");
}

const state = { filters: [], search: "", sort: "", down: false, page: 0, size: 60, view: new Uint32Array(0) };
const marks = new Set();
let turn = 0;

function startFaces() {
  const shown = meta.columns.filter((column) => column.name !== "pictures");
  by("sort").append(new Option("failed, rejected, doubtful first", ""));
  by("column").append(new Option("…", ""));
  for (const column of shown) {
    by("sort").append(new Option(column.name, column.name));
    by("column").append(new Option(column.name, column.name));
  }
  const some = meta.columns[place("near_duplicates")].high > 0;
  by("twice").hidden = !some;
  by("twice").onclick = () => { state.filters = [{ name: "near_duplicates", low: 1, high: null }]; state.sort = "duplicate_group"; state.down = false; changed(); };
  by("sort").onchange = () => { state.sort = by("sort").value; changed(); };
  by("way").onclick = () => { state.down = !state.down; changed(); };
  by("column").onchange = askValues;
  by("search").oninput = () => { clearTimeout(turn); turn = setTimeout(() => { state.search = by("search").value; changed(); }, 250); };
  by("size").onchange = () => { state.size = Number(by("size").value); state.page = 0; show(); };
  for (const id of ["before", "before2"]) by(id).onclick = () => { state.page--; show(); scrollTo(0, 0); };
  for (const id of ["next", "next2"]) by(id).onclick = () => { state.page++; show(); scrollTo(0, 0); };
  by("markpage").onclick = () => { for (const row of page()) marks.add(row); show(); };
  by("markothers").onclick = markOthers;
  by("unmark").onclick = () => { marks.clear(); show(); };
  by("download").onclick = download;
  document.addEventListener("keydown", (event) => {
    if (["INPUT", "SELECT"].includes(event.target.tagName) || by("details").open) return;
    if (event.key === "ArrowRight" && !by("next").disabled) by("next").click();
    if (event.key === "ArrowLeft" && !by("before").disabled) by("before").click();
  });
  document.documentElement.style.setProperty("--card", `${meta.titles.length * 98 + 20}px`);
  fit();
  addEventListener("resize", fit);
  addEventListener("hashchange", () => { if (location.hash !== written) { readHash(); choose(); } });
  readHash();
  choose();
}

/** On a narrow screen, all pictures of a face still stand side by side. */
function fit() {
  const room = Math.min(document.documentElement.clientWidth - 52, 10000);
  const side = Math.min(meta.tile, Math.floor(room / Math.max(1, meta.titles.length)) - 2);
  document.documentElement.style.setProperty("--side", `${side}px`);
  state.side = side;
  if (state.view.length) show();
}

let written = "";
function readHash() {
  Object.assign(state, { filters: [], search: "", sort: "", down: false, page: 0 });
  for (const part of location.hash.slice(1).split("&")) {
    const [name, value] = part.split("=").map((text) => { try { return decodeURIComponent(text || ""); } catch { return ""; } });
    const column = meta.columns[place(name)];
    if (name === "sort") [state.sort, state.down] = [value.replace(/^-/, ""), value.startsWith("-")];
    else if (name === "search") state.search = value;
    else if (name === "page") state.page = Math.max(0, Number(value) - 1 || 0);
    else if (column && column.kind === "word") state.filters.push({ name, word: value });
    else if (column) {
      const [low, high] = value.split("..").map((text) => text === "" || isNaN(text) ? null : Number(text));
      state.filters.push({ name, low: low ?? null, high: high ?? null });
    }
  }
  if (state.sort && place(state.sort) < 0) state.sort = "";
  by("search").value = state.search;
}

function writeHash() {
  const pairs = state.filters.map((one) => [one.name, "word" in one ? one.word : `${one.low ?? ""}..${one.high ?? ""}`]);
  if (state.search) pairs.push(["search", state.search]);
  if (state.sort || state.down) pairs.push(["sort", (state.down ? "-" : "") + state.sort]);
  if (state.page) pairs.push(["page", state.page + 1]);
  written = pairs.length ? `#${hash(pairs)}` : "";
  history.replaceState(null, "", written || location.pathname.split("/").pop());
}

function changed() { state.page = 0; choose(); }

function askValues() {
  const column = meta.columns[place(by("column").value)], box = by("values");
  box.replaceChildren();
  if (!column) return;
  if (column.kind === "word") {
    const select = element("select");
    select.id = "word";
    select.append(new Option("…", ""));
    column.words.forEach((word, i) => select.append(new Option(`${word} (${column.counts[i + 1]})`, `=${word}`)));
    if (column.counts[0]) select.append(new Option(`unknown (${column.counts[0]})`, "="));
    select.onchange = () => { if (select.value) add({ name: column.name, word: select.value.slice(1) }); };
    box.append(select);
    return;
  }
  const ends = ["low", "high"].map((end) => {
    const input = element("input");
    input.type = "number"; input.step = "any"; input.id = end;
    input.placeholder = column[end] === null ? "" : short(column[end]);
    input.setAttribute("aria-label", end);
    return input;
  });
  const take = element("button", "filter");
  take.id = "take";
  take.onclick = () => {
    const [low, high] = ends.map((input) => input.value === "" ? null : Number(input.value));
    if (low !== null || high !== null) add({ name: column.name, low, high });
  };
  for (const input of ends) input.onkeydown = (event) => { if (event.key === "Enter") take.click(); };
  box.append(ends[0], " to ", ends[1], " ", take);
}

function add(filter) {
  state.filters = [...state.filters.filter((one) => one.name !== filter.name), filter];
  by("column").value = "";
  askValues();
  changed();
}

let choosing = 0;
async function choose() {
  const mine = ++choosing;
  by("count").textContent = "…";
  const began = performance.now();
  const tests = [];
  for (const one of state.filters) {
    const column = meta.columns[place(one.name)], found = await values(one.name);
    if ("word" in one) {
      const wanted = one.word === "" ? 0 : column.words.indexOf(one.word) + 1;
      const none = one.word !== "" && !wanted;
      tests.push((row) => !none && found[row] === wanted);
    } else {
      const low = one.low ?? -Infinity, high = one.high ?? Infinity;
      tests.push((row) => found[row] >= low && found[row] <= high);
    }
  }
  if (state.search) {
    const wanted = state.search.toLowerCase(), chunks = Math.ceil(meta.rows / meta.chunk);
    const texts = await Promise.all(Array.from({ length: chunks }, (_, i) => load(`k${i}`)));
    tests.push((row) => (texts[Math.floor(row / meta.chunk)].key[row % meta.chunk] || "").toLowerCase().includes(wanted));
  }
  const order = await array("order");
  let view = tests.length ? order.filter((row) => tests.every((test) => test(row))) : order.slice();
  if (state.sort) {
    const found = await values(state.sort), column = meta.columns[place(state.sort)];
    let keys = found;
    if (column.kind === "word") {
      const ranks = new Float64Array(column.words.length + 1).fill(NaN);
      column.words.map((word, i) => [word, i + 1]).sort((a, b) => a[0] < b[0] ? -1 : 1).forEach(([, i], rank) => { ranks[i] = rank; });
      keys = Float64Array.from(found, (value) => ranks[value]);
    }
    const known = view.filter((row) => !Number.isNaN(keys[row])), unknown = view.filter((row) => Number.isNaN(keys[row]));
    const sign = state.down ? -1 : 1;
    known.sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
    view.set(known); view.set(unknown, known.length);  // unknown ones last, whichever way
  } else if (state.down) view.reverse();
  if (mine !== choosing) return;
  state.view = view;
  state.milliseconds = performance.now() - began;
  await show();
}

const page = () => state.view.subarray(state.page * state.size, (state.page + 1) * state.size);

/** Columns whose values a card shows. */
function onCard() {
  const wanted = ["detection_score", "face_size_px", "sharpness", "emotion", "subject", "split", ...state.filters.map((one) => one.name), state.sort];
  return [...new Set(wanted)].filter((name) => place(name) >= 0 && !["status", "reason", "pictures", "decided_by"].includes(name));
}

let showing = 0;
async function show() {
  const mine = ++showing;
  const pages = Math.max(1, Math.ceil(state.view.length / state.size));
  state.page = Math.min(Math.max(0, state.page), pages - 1);
  writeHash();
  const rows = page(), names = onCard();
  const [status, reason, there, ...more] = await Promise.all([values("status"), values("reason"), values("pictures"), ...names.map(values)]);
  const chunks = [...new Set(Array.from(rows, (row) => Math.floor(row / meta.chunk)))];
  const texts = new Map();
  await Promise.all(chunks.map(async (chunk) => texts.set(chunk, await load(`k${chunk}`))));
  if (mine !== showing) return;
  const cards = Array.from(rows, (row) => card(row, {
    key: texts.get(Math.floor(row / meta.chunk)).key[row % meta.chunk],
    status: word("status", status[row]), reason: word("reason", reason[row]), there: there[row],
    values: names.map((name, i) => [name, text(name, more[i][row])]),
  }));
  by("grid").replaceChildren(...cards);
  by("sort").value = state.sort;
  by("way").textContent = state.down ? "↓" : "↑";
  by("count").textContent = `${state.view.length} of ${meta.rows}`;
  by("page").textContent = `page ${state.page + 1} of ${pages}`;
  for (const id of ["before", "before2"]) by(id).disabled = !state.page;
  for (const id of ["next", "next2"]) by(id).disabled = state.page + 1 >= pages;
  by("markothers").hidden = state.sort !== "duplicate_group";
  chips();
  counted();
  document.body.dataset.ready = `${mine} ${Math.round(performance.now())}`;
}

const word = (name, number) => number ? meta.columns[place(name)].words[number - 1] : "";
function text(name, value) {
  if (meta.columns[place(name)].kind === "word") return word(name, value);
  return Number.isNaN(value) ? "" : short(value);
}

function chips() {
  by("chips").replaceChildren(...state.filters.map((one) => {
    const said = "word" in one ? `${one.name}: ${one.word || "unknown"}` : `${one.name}: ${one.low === null ? "" : short(one.low)} … ${one.high === null ? "" : short(one.high)}`;
    const chip = element("button", `${said} ×`);
    chip.onclick = () => { state.filters = state.filters.filter((other) => other !== one); changed(); };
    return chip;
  }));
}

function pictures(row, there) {
  const box = element("button", undefined, "pictures");
  box.type = "button";
  const sheet = Math.floor(row / meta.sheet), side = state.side;
  const folder = String(Math.floor(sheet / meta.files)).padStart(2, "0"), file = String(sheet % meta.files).padStart(3, "0");
  meta.titles.forEach((title, i) => {
    const tile = element("span", undefined, "tile", there >> i & 1 ? "" : "none");
    tile.title = title;
    if (there >> i & 1) {
      tile.style.backgroundImage = `url("pictures/${folder}/${file}.jpg")`;
      tile.style.backgroundSize = `${meta.titles.length * side}px auto`;
      tile.style.backgroundPosition = `${-i * side}px ${-(row % meta.sheet) * side}px`;
    }
    box.append(tile);
  });
  return box;
}

function card(row, about) {
  const box = element("article", undefined, "card", marks.has(row) ? "marked" : "");
  const shown = pictures(row, about.there);
  shown.setAttribute("aria-label", "mark");
  shown.onclick = () => { if (!marks.delete(row)) marks.add(row); box.classList.toggle("marked"); counted(); };
  if (meta.coefficients.length) {
    shown.onpointerenter = (event) => tip(row, event);
    shown.onpointerleave = () => { by("tip").hidden = true; tipped = -1; };
  }
  const key = element("p", about.key, "key");
  key.title = about.key;
  const verdict = element("p");
  verdict.append(element("span", about.status, `status-${about.status}`), about.reason ? `: ${about.reason}` : "");
  verdict.title = meta.meanings[about.reason] || "";
  const facts = element("p", about.values.filter(([, value]) => value !== "").map(([name, value]) => `${name} ${value}`).join(" · "), "soft");
  const more = element("button", "all values", "more");
  more.onclick = () => details(row);
  box.append(shown, key, verdict, facts, more);
  return box;
}

async function coefficients(row) {
  const chunk = unpacked(await load(`e${Math.floor(row / meta.chunk)}`)), count = meta.coefficients.length;
  const from = row % meta.chunk * count;
  return meta.coefficients.map((name, i) => [name, chunk[from + i]]).filter(([, value]) => value !== 255);
}

function drawn(found) {
  const box = element("div", undefined, "coefficients");
  for (const [name, value] of found) {
    const bar = element("i");
    bar.style.width = `${value}%`;
    box.append(element("span", name), bar, element("span", (value / 100).toFixed(2), "n"));
  }
  return box;
}

let tipped = -1;
async function tip(row, event) {
  tipped = row;
  const found = (await coefficients(row)).sort((a, b) => b[1] - a[1]).slice(0, 10);
  if (tipped !== row) return;
  by("tip").replaceChildren(found.length ? drawn(found) : element("span", "no coefficients: no usable face"));
  by("tip").hidden = false;
  by("tip").style.left = `${Math.min(event.clientX + 14, innerWidth - 260)}px`;
  by("tip").style.top = `${Math.min(event.clientY + 14, innerHeight - by("tip").offsetHeight - 8)}px`;
}

async function details(row) {
  const chunk = await load(`k${Math.floor(row / meta.chunk)}`), there = await values("pictures");
  const list = element("dl"), at = row % meta.chunk;
  const put = (name, value) => {
    const term = element("dt", name);
    term.title = meta.meanings[name] || "";
    list.append(term, element("dd", value));
  };
  for (const [name, column] of Object.entries(chunk)) put(name, column[at] ?? "");
  for (const column of meta.columns) if (column.name !== "pictures") put(column.name, text(column.name, (await values(column.name))[row]));
  const body = by("details").querySelector("div");
  body.replaceChildren(pictures(row, there[row]), list);
  if (meta.coefficients.length) body.append(drawn(await coefficients(row)));
  by("details").showModal();
}

// ---------------------------------------------------------------- marking

function counted() {
  by("download").disabled = by("unmark").disabled = !marks.size;
  by("download").textContent = marks.size ? `exclude.csv (${marks.size})` : "exclude.csv";
  by("how").textContent = marks.size ? "then: normpipe exclude OUT exclude.csv" : "";
}

async function markOthers() {
  const groups = await values("duplicate_group"), seen = new Set();
  for (const row of state.view) {
    if (Number.isNaN(groups[row])) continue;
    if (seen.has(groups[row])) marks.add(row); else seen.add(groups[row]);
  }
  show();
}

const cell = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;

async function list() {
  const rows = [...marks].sort((a, b) => a - b), why = by("why").value.trim();
  const lines = ["key,reason"];
  for (const row of rows) {
    const chunk = await load(`k${Math.floor(row / meta.chunk)}`);
    lines.push(`${cell(chunk.key[row % meta.chunk])},${cell(why)}`);
  }
  return lines.join("\n") + "\n";
}

async function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([await list()], { type: "text/csv" }));
  link.download = "exclude.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
