"use strict";
// The page's script: plots of the metrics, and the browser of samples.
// Text from data sets and models enters the page through textContent or text nodes, never as HTML.

const $ = (id) => document.getElementById(id);
const read = (id) => JSON.parse($(id).textContent);
const settings = read("settings");

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  return made;
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
}

// ---- the language: the page is in English, and russian.json has each of its fixed texts

const language = {
  now: "en",
  russian: read("russian"),
  text: (key) => (language.now === "ru" ? language.russian[key] ?? key : key),
  restore() {
    let kept = null;
    try { kept = localStorage.getItem("report-language"); } catch { /* a locked store */ }
    language.set(kept === "en" || kept === "ru" ? kept : navigator.language.toLowerCase().startsWith("ru") ? "ru" : "en");
  },
  toggle() {
    language.set(language.now === "ru" ? "en" : "ru");
    try { localStorage.setItem("report-language", language.now); } catch { /* a locked store */ }
    plots.draw();
    filters.label();
    list.show(list.rows);
    if (browser.current) browser.show(browser.current);
  },
  set(name) {
    const isFirst = name === language.now; // the page as it is written
    language.now = name;
    document.documentElement.lang = name;
    $("language").firstChild.textContent = name === "ru" ? "English" : "Русский";
    if (isFirst) return;
    for (const node of document.querySelectorAll("[data-t]")) {
      const values = JSON.parse(node.dataset.v ?? "{}");
      if (node.tagName === "TITLE") node.textContent = t(node.dataset.t, values);
      else node.replaceChildren(...translated(node.dataset.t, values));
    }
    for (const attribute of ["title", "placeholder", "aria-label"]) {
      for (const node of document.querySelectorAll(`[data-t-${attribute}]`)) node.setAttribute(attribute, language.text(node.getAttribute(`data-t-${attribute}`)));
    }
  },
};

function t(key, values = {}) { // a fixed text with the values of its {names}
  return language.text(key).replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function translated(key, values) { // the same as nodes; a value is isolated from the direction of the text
  return language.text(key).split(/\{(\w+)\}/).map((part, place) => (place % 2 ? element("bdi", "", values[part]) : part));
}

// ---- light and dark

const theme = {
  get dark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },
  toggle() {
    document.documentElement.dataset.theme = theme.dark ? "light" : "dark";
    try { localStorage.setItem("report-theme", document.documentElement.dataset.theme); } catch { /* a locked store */ }
    plots.draw();
  },
  restore() {
    try {
      const kept = localStorage.getItem("report-theme");
      if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
    } catch { /* a locked store */ }
  },
};

// ---- plots

const DERIVED_GROUPS = ["answer_kind", "extraction", "extraction.single", "extraction.multiple", "instruction", "num_options"];

const plots = {
  data: read("plots"),
  rows: [],
  start() {
    const { columns, metrics } = plots.data;
    plots.rows = metrics.map((row) => Object.fromEntries(columns.map((name, place) => [name, row[place]])));
    const distinct = (name, rows = plots.rows) => [...new Set(rows.map((row) => row[name]))];
    const scored = plots.rows.filter((row) => row.value !== null);
    const order = ["score", "em", "f1", "correct"];
    const metricNames = distinct("metric").sort((a, b) => (order.indexOf(a) + 1 || 9) - (order.indexOf(b) + 1 || 9));
    options($("plot-metric"), metricNames.map((name) => [name, name]));
    options($("plot-split"), distinct("split").sort().map((name) => [name, name]));
    options($("plot-task"), distinct("task", plots.rows.filter((row) => row.level === "task")).map((name) => [name, name]));
    if (!scored.some((row) => row.split === "test") && scored.length) $("plot-split").value = scored[0].split;
    new ResizeObserver(() => plots.fit()).observe($("overview"));
    for (const id of ["plot-metric", "plot-split", "plot-group"]) $(id).addEventListener("change", plots.draw);
    $("plot-task").addEventListener("change", () => { plots.groups(); plots.draw(); });
    plots.groups();
    plots.draw();
  },
  groups() {
    const task = $("plot-task").value;
    const names = new Set(plots.rows.filter((row) => row.task === task && row.group_by).map((row) => row.group_by));
    for (const derived of DERIVED_GROUPS) if (names.delete(derived)) names.add(derived); // last
    const before = $("plot-group").value;
    options($("plot-group"), [...names].map((name) => [name, name]));
    if (names.has(before)) $("plot-group").value = before;
  },
  width: 0, // of the drawings, in CSS pixels: text in them is as large as that of the page
  fit() {
    const width = $("plot-tasks").clientWidth;
    if (width && width !== plots.width) plots.draw();
  },
  draw() {
    plots.width = $("plot-tasks").clientWidth || plots.width || 1060;
    const metric = $("plot-metric").value, split = $("plot-split").value;
    const of = (row) => row.metric === metric && row.split === split && row.value !== null;
    const whole = plots.rows.filter((row) => of(row) && !row.group_by && row.level !== "run");
    const named = metric === "score" && split === "test" ? Object.entries(plots.data.references) : [];
    const references = new Map(named); // in an object, a domain called "constructor" would be found
    $("plot-tasks").replaceChildren(plots.intervals(whole.map((row) => (
      { ...row, name: row.level === "domain" && plots.width >= 700 ? `${row.task} ${t("(domain)")}` : row.task, reference: row.level === "domain" ? references.get(row.task) : undefined }
    )), metric));
    const task = $("plot-task").value, by = $("plot-group").value;
    const groups = plots.rows.filter((row) => of(row) && row.task === task && row.group_by === by);
    groups.sort((a, b) => b.value - a.value);
    $("plot-groups").replaceChildren(plots.intervals(groups.map((row) => ({ ...row, name: `${row.group ?? t("none")}` })), metric));
    $("plot-lengths").replaceChildren(plots.lengths());
  },
  intervals(rows, metric) {
    if (!rows.length) return element("p", "note", t("nothing is scored here"));
    const longestName = plots.width < 700 ? 18 : 34;
    const short = (name) => (name.length > longestName ? `${name.slice(0, longestName - 1)}…` : name);
    const most = Math.max(1, ...rows.map((row) => Math.max(row.ci_high ?? 0, row.bound_high ?? 0, row.value)));
    const title = (row) => [
      `${row.name}: ${row.value.toFixed(3)}`,
      row.ci_low === null ? t("no interval") : t("95% interval {low}–{high}", { low: row.ci_low.toFixed(3), high: row.ci_high.toFixed(3) }),
      row.bound_low === null ? "" : t("bounds {low}–{high}", { low: row.bound_low.toFixed(3), high: row.bound_high.toFixed(3) }),
      row.reference === undefined ? "" : t("reference submission {value}", { value: row.reference.toFixed(3) }),
      t("{num} samples", { num: row.num_total.toLocaleString("en") }),
    ].filter(Boolean).join("\n");
    const names = rows.map((row) => row.name);
    const color = theme.dark ? "#79aef5" : "#1f5fbf", strong = theme.dark ? "#f0b86e" : "#b3561c";
    const longest = Math.max(...names.map((name) => short(name).length));
    return Plot.plot({
      width: plots.width, height: 46 + 25 * rows.length, marginLeft: 24 + 7 * longest, marginRight: 60, style: { fontSize: "12px", background: "transparent" },
      x: { domain: [0, most], label: metric, grid: true, nice: true, ticks: plots.width < 700 ? 4 : 10 },
      y: { domain: names, label: null, tickFormat: short, tickSize: 0 },
      marks: [
        Plot.ruleY(rows.filter((row) => row.bound_low !== null), { y: "name", x1: "bound_low", x2: "bound_high", stroke: "currentColor", strokeOpacity: 0.14, strokeWidth: 12 }),
        Plot.ruleY(rows.filter((row) => row.ci_low !== null), { y: "name", x1: "ci_low", x2: "ci_high", stroke: color, strokeWidth: 2 }),
        Plot.dot(rows, { y: "name", x: "value", r: 4.5, fill: color }),
        Plot.tickX(rows.filter((row) => row.reference !== undefined), { y: "name", x: "reference", stroke: strong, strokeWidth: 2.5 }),
        Plot.text(rows, { y: "name", x: most, text: (row) => row.value.toFixed(3), textAnchor: "start", dx: 14, fill: "currentColor" }),
        Plot.tip(rows, Plot.pointerY({ y: "name", x: "value", title })),
      ],
    });
  },
  lengths() {
    const { lengths, bin_width: width, max_gen_toks: budget } = plots.data;
    if (!lengths.length) return element("p", "note", t("the engine has reported no lengths"));
    const rows = lengths.map((row) => ({ ...row, x1: row.bin * width, x2: (row.bin + 1) * width, kind: row.cut ? t("truncated") : t("ended by itself") }));
    const tasks = new Set(rows.map((row) => row.task));
    return Plot.plot({
      width: plots.width, height: 60 + 88 * tasks.size, marginLeft: 50, marginRight: 12 + 7 * Math.max(...[...tasks].map((task) => Math.min(task.length, 30))), style: { fontSize: "12px", background: "transparent" },
      x: { domain: [0, Math.max(...rows.map((row) => row.x2))], label: t("output tokens (budget {num})", { num: budget.toLocaleString("en") }), ticks: plots.width < 700 ? 4 : 10, grid: true },
      y: { label: t("samples"), ticks: 3, grid: true }, fy: { label: null },
      color: { domain: [t("ended by itself"), t("truncated")], range: theme.dark ? ["#5f93d8", "#f0b86e"] : ["#3b78cf", "#d9772b"], legend: true },
      marks: [
        Plot.rectY(rows, Plot.stackY({ fy: "task", x1: "x1", x2: "x2", y: "num", fill: "kind", inset: 0.5,
          title: (row) => `${row.task}\n${row.x1}–${row.x2 - 1}, ${row.kind}: ${row.num.toLocaleString("en")}`, tip: true })),
        Plot.ruleY([0], { strokeOpacity: 0.4 }),
      ],
    });
  },
};

// ---- the blocks of samples

async function unpack(base64) {
  const letters = atob(base64);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const KEPT_BLOCKS = 48;

const blocks = {
  nodes: document.querySelectorAll("script.texts"),
  kept: new Map(), // block number -> promise of its texts; the order is that of use
  waiting: new Map(),
  texts(number) {
    let found = blocks.kept.get(number);
    blocks.kept.delete(number);
    found ??= (settings.chunks ? blocks.load(number) : unpack(blocks.nodes[number].textContent));
    blocks.kept.set(number, found);
    found.catch(() => blocks.kept.delete(number)); // retried on the next request
    if (blocks.kept.size > KEPT_BLOCKS) blocks.kept.delete(blocks.kept.keys().next().value);
    return found;
  },
  load(number) { // a script, because a page opened from disk cannot use fetch
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      const name = `${settings.chunks}/${number}.js`;
      script.src = name;
      script.onload = () => { blocks.waiting.delete(number); script.remove(); };
      script.onerror = () => { script.remove(); reject(new Error(t("{file} is missing: keep {directory}/ next to this page", { file: name, directory: settings.chunks }))); };
      blocks.waiting.set(number, resolve);
      document.head.append(script);
    }).then(unpack);
  },
};
globalThis.reportChunk = (number, base64) => blocks.waiting.get(number)?.(base64);

// ---- the samples' columns, all of them in memory

const samples = { all: [] };

async function readIndex() {
  const nodes = document.querySelectorAll("script.index");
  for (let block = 0; block < nodes.length; block++) {
    const columns = await unpack(nodes[block].textContent);
    nodes[block].remove();
    for (let place = 0; place < columns.id.length; place++) {
      const one = { block, place };
      for (const name in columns) one[name] = columns[name][place];
      one.result = result(one);
      samples.all.push(one);
    }
  }
  const collate = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  samples.all.sort((a, b) => collate(a.task, b.task) || collate(a.split, b.split) || a.id - b.id || a.repeat - b.repeat);
}

function result(one) {
  if (one.failed) return "failed";
  if (one.correct === null) return "unscored";
  return one.correct === 1 ? "right" : "wrong";
}

const address = (one) => `#${[one.task, one.split, one.id, one.repeat].map(encodeURIComponent).join("/")}`;

function named(hash) { // #task/split/id/repeat, or #task/id
  let parts;
  try { parts = hash.slice(1).split("/").map(decodeURIComponent); } catch { return undefined; }
  if (parts.length === 2) {
    const found = samples.all.filter((one) => one.task === parts[0] && one.id === parts[1]);
    return found.find((one) => one.split === "test") ?? found[0];
  }
  const [task, split, id, repeat = "0"] = parts;
  return samples.all.find((one) => one.task === task && one.split === split && one.id === id && String(one.repeat) === repeat);
}

// ---- filters and search

const RESULTS = {
  right: (one) => one.result === "right",
  wrong: (one) => one.result === "wrong",
  "right, EM 0": (one) => one.result === "right" && one.em === 0,
  "wrong, EM 1": (one) => one.result === "wrong" && one.em === 1,
  unscored: (one) => one.result === "unscored",
  failed: (one) => one.result === "failed",
};

const RESULT_TEXTS = { // also those of the results of a list's row and of flips
  right: () => t("right"), wrong: () => t("wrong"), "right, EM 0": () => t("right, EM 0"), "wrong, EM 1": () => t("wrong, EM 1"),
  unscored: () => t("unscored"), failed: () => t("failed"), any: () => t("any"), lost: () => t("lost"), gained: () => t("gained"),
};
const resultText = (value) => RESULT_TEXTS[value]?.() ?? value;

const category = (pair) => JSON.stringify(pair);

const FILTERS = {
  task: (one, value) => one.task === value,
  split: (one, value) => one.split === value,
  category: (one, value) => one.categories.some((pair) => category(pair) === value),
  result: (one, value) => RESULTS[value](one),
  finish: (one, value) => one.finish_reason === value,
  extraction: (one, value) => (one.extraction ?? "") === value,
  answers: (one, value) => (one.answer_kind ?? "hidden") === value,
  flipped: (one, value) => (value === "any" ? one.change !== null : one.change === value),
};

const filters = {
  selects: [...document.querySelectorAll("[data-filter]")],
  start() {
    const values = { task: (one) => [one.task], split: (one) => [one.split], finish: (one) => [one.finish_reason],
      category: (one) => one.categories.map(category), extraction: (one) => [one.extraction ?? ""],
      answers: (one) => [one.answer_kind ?? "hidden"],
      result: (one) => Object.keys(RESULTS).filter((name) => RESULTS[name](one)),
      flipped: (one) => (one.change === null ? [] : ["any", one.change]) };
    for (const select of filters.selects) {
      const name = select.dataset.filter, counts = new Map();
      for (const one of samples.all) for (const value of values[name](one)) counts.set(value, (counts.get(value) ?? 0) + 1);
      filters.counts.set(name, counts);
      if (name === "flipped") $("flipped-label").hidden = counts.size === 0;
      select.addEventListener("change", filters.apply);
    }
    filters.label();
    let timer;
    $("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filters.apply, 180); });
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("filters").addEventListener("reset", () => setTimeout(filters.apply));
  },
  counts: new Map(), // by filter: the number of samples by value
  label() { // fill the selects in the page's language, and keep what is chosen
    const texts = { category: (value) => JSON.parse(value).join(": "), extraction: (value) => value || t("(none)"), result: resultText, flipped: resultText };
    for (const select of filters.selects) {
      const name = select.dataset.filter, counts = filters.counts.get(name), chosen = select.value || "*";
      const keys = name === "result" ? Object.keys(RESULTS).filter((key) => counts.has(key)) : [...counts.keys()].sort();
      const text = texts[name] ?? String;
      options(select, [["*", t("all")], ...keys.map((value) => [`=${value}`, `${text(value)} (${counts.get(value).toLocaleString("en")})`])]);
      select.value = chosen;
    }
  },
  choose(parameters) { // URLSearchParams: a value by the name of a filter
    for (const select of filters.selects) {
      const value = parameters.get(select.dataset.filter);
      select.value = value === null ? "*" : `=${value}`;
    }
    $("search").value = "";
    return filters.apply();
  },
  turn: 0,
  async apply() {
    const turn = ++filters.turn;
    const chosen = filters.selects.filter((select) => select.value !== "*" && select.value !== "");
    for (const select of filters.selects) select.classList.toggle("set", chosen.includes(select));
    let found = samples.all;
    for (const select of chosen) {
      const fits = FILTERS[select.dataset.filter], value = select.value.slice(1);
      found = found.filter((one) => fits(one, value));
    }
    const words = $("search").value.trim();
    $("progress").hidden = true;
    if (words) await filters.search(found, words, turn);
    else list.show(found);
  },
  async search(rows, words, turn) {
    const pattern = new RegExp(words.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&"), "iu");
    const byBlock = new Map(), hits = new Set(), all = rows;
    for (const one of rows) {
      if (byBlock.has(one.block)) byBlock.get(one.block).push(one);
      else byBlock.set(one.block, [one]);
    }
    let done = 0, painted = performance.now();
    $("progress").hidden = false;
    for (const [number, members] of byBlock) {
      let texts;
      try { texts = await blocks.texts(number); } catch (error) { if (turn === filters.turn) list.report(error.message); return; }
      if (turn !== filters.turn) return; // superseded by a newer search
      for (const one of members) {
        const text = texts[one.place];
        if (one.id === words || [text.prompt, text.reasoning, text.response, text.completion, text.error].some((each) => each && pattern.test(each))) hits.add(one);
      }
      $("progress").value = ++done / byBlock.size;
      if (performance.now() - painted > 150) {
        list.show(all.filter((one) => hits.has(one)), ` ${t("so far")}`);
        await new Promise((resolve) => setTimeout(resolve));
        painted = performance.now();
      }
    }
    if (turn !== filters.turn) return;
    $("progress").hidden = true;
    list.show(all.filter((one) => hits.has(one)));
  },
};

// ---- the list: the page contains only the rows in view

const ROW = 50;

const list = {
  rows: [],
  place: new Map(),
  drawn: "",
  start() {
    $("list").addEventListener("scroll", () => requestAnimationFrame(() => list.draw()), { passive: true });
    new ResizeObserver(() => list.draw(true)).observe($("list"));
    $("tall").addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) go(list.rows[Number(row.dataset.place)]);
    });
  },
  report(text) { $("progress").hidden = true; $("count").textContent = text; },
  show(rows, words = "") {
    list.rows = rows;
    list.place = new Map(rows.map((one, place) => [one, place]));
    $("tall").style.height = `${rows.length * ROW}px`;
    const values = { num: rows.length.toLocaleString("en"), total: samples.all.length.toLocaleString("en") };
    const text = rows.length === samples.all.length ? t("{num} samples", values) : t("{num} of {total} samples", values);
    $("count").textContent = `${text}${words}`;
    list.draw(true);
  },
  draw(force = false) {
    const box = $("list"), first = Math.max(0, Math.floor(box.scrollTop / ROW) - 6);
    const last = Math.min(list.rows.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 6);
    if (!force && list.drawn === `${first} ${last}`) return;
    list.drawn = `${first} ${last}`;
    $("tall").replaceChildren(...list.rows.slice(first, last).map((one, offset) => list.row(one, first + offset)));
  },
  row(one, place) {
    const row = element("div", "row"), who = element("div"), what = element("div");
    row.dataset.place = place;
    row.style.top = `${place * ROW}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(one === browser.current));
    who.append(element("span", "who", `${one.task} ${one.id}${one.repeat ? ` · ${t("repeat {num}", { num: one.repeat })}` : ""}`), element("span", "tag", one.split), element("span", "grow"));
    if (one.change) who.append(element("span", `tag ${one.change}`, resultText(one.change)));
    if (one.finish_reason !== "stop") who.append(element("span", "tag cut", one.finish_reason));
    who.append(element("span", `tag ${one.result}`, resultText(one.result)));
    const answer = `${one.answer ?? t("no answer")}${one.gold === null ? "" : `, ${t("gold {answer}", { answer: one.gold })}`}`;
    what.append(element("span", "what answer", answer));
    if (one.preview !== one.answer) what.append(element("span", "what", one.preview));
    row.append(who, what);
    return row;
  },
  reveal(one) {
    const place = list.place.get(one), box = $("list");
    if (place === undefined) return;
    if (place * ROW < box.scrollTop) box.scrollTop = place * ROW;
    else if ((place + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (place + 1) * ROW - box.clientHeight;
  },
};

// ---- one sample

const browser = {
  current: null,
  reasoningOpen: false,
  async show(one) {
    browser.current = one;
    list.reveal(one);
    list.draw(true);
    let texts;
    try { texts = (await blocks.texts(one.block))[one.place]; } catch (error) { list.report(error.message); return; }
    if (browser.current !== one) return; // another sample was selected meanwhile
    $("hint").hidden = true;
    $("shown").hidden = false;
    $("name").textContent = `${one.task} / ${one.split} / ${one.id}${one.repeat ? ` / ${t("repeat {num}", { num: one.repeat })}` : ""}`;
    $("verdict").textContent = resultText(one.result);
    $("verdict").className = `tag ${one.result}`;
    $("link").href = address(one);
    $("fields").replaceChildren(...browser.fields(one, texts).filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => {
      const field = element("div");
      const shown = element("dd");
      shown.append(element("bdi", "", value));
      field.append(element("dt", "", name), shown);
      return field;
    }));
    const parts = [];
    if (texts.error) parts.push(browser.part(t("Error"), texts.error));
    if (texts.baseline) parts.push(browser.flipped(one, texts));
    parts.push(browser.part(t("Prompt"), texts.prompt));
    if (texts.reasoning) parts.push(browser.folded(t("Reasoning"), texts.reasoning));
    if (texts.completion) parts.push(browser.part(t("Completion"), texts.completion));
    if (!texts.baseline) parts.push(browser.part(t("Response"), texts.response ?? t("(none)")));
    $("parts").replaceChildren(...parts);
    $("sample").scrollTop = 0;
    browser.mark();
  },
  fields(one, texts) {
    const seconds = (value) => (value === undefined ? null : `${value.toFixed(2)} s`);
    return [
      [t("extracted answer"), one.answer ?? "–"], [t("gold"), one.gold ?? t("hidden")], [t("extraction"), one.extraction], [t("letters seen"), texts.seen_letters],
      ["correct", one.correct], ["EM", one.em], ["F1", one.f1], [t("finish reason"), one.finish_reason],
      [t("output tokens"), one.num_output_tokens], [t("prompt tokens"), texts.num_prompt_tokens], [t("since the baseline"), one.change === null ? null : resultText(one.change)],
      ...one.categories, [t("instruction"), texts.instruction], [t("options"), texts.num_options], [t("right answers"), one.answer_kind],
      [t("queued"), seconds(texts.queued_s)], [t("generated"), seconds(texts.generated_s)], [t("attempts"), texts.attempts],
      [t("replica"), texts.replica], [t("prompt SHA-256"), texts.prompt_sha256?.slice(0, 12)],
    ];
  },
  flipped(one, texts) { // the baseline's response and this run's, side by side
    const pair = element("div", "pair"), base = texts.baseline;
    const side = (name, isRight, answer, extraction, finish, text) => {
      const part = browser.part(name, text), line = element("p", "note");
      line.append(element("span", `tag ${isRight ? "right" : "wrong"}`, isRight ? t("right") : t("wrong")), " ",
        element("bdi", "", [answer ?? t("no answer"), extraction, finish].filter(Boolean).join(" · ")));
      part.insertBefore(line, part.lastChild);
      return part;
    };
    const cut = base.is_cut ? `\n… ${t("(the rest is in the baseline's run)")}` : "";
    pair.append(
      side(t("Baseline"), one.change === "lost", base.answer, base.extraction, base.finish_reason, (base.response ?? t("(none)")) + cut),
      side(t("This run"), one.change === "gained", one.answer, one.extraction, one.finish_reason, texts.response ?? t("(none)")));
    return pair;
  },
  part(name, text) {
    const part = element("div", "part"), shown = element("pre", "text", text);
    shown.dir = "auto";
    part.append(element("h3", "", name), shown);
    return part;
  },
  folded(name, text) {
    const part = element("details"), shown = element("pre", "text", text);
    part.id = "reasoning";
    part.open = browser.reasoningOpen;
    part.addEventListener("toggle", () => { browser.reasoningOpen = part.open; });
    shown.dir = "auto";
    part.append(element("summary", "", t("{part}, {num} characters", { part: name, num: text.length.toLocaleString("en") })), shown);
    return part;
  },
  mark() { // highlight the search words without changing the text nodes
    if (!globalThis.Highlight) return;
    const words = $("search").value.trim().toLowerCase(), ranges = [];
    for (const shown of words ? document.querySelectorAll("#parts .text") : []) {
      const node = shown.firstChild, text = node?.data.toLowerCase() ?? "";
      if (text.length !== node?.data.length) continue; // a letter has a longer lower case: offsets would be wrong
      for (let at = text.indexOf(words); at >= 0 && ranges.length < 1000; at = text.indexOf(words, at + words.length)) {
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, at + words.length);
        ranges.push(range);
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  },
  step(by) {
    if (!list.rows.length) return;
    const place = list.place.get(browser.current);
    const next = place === undefined ? 0 : Math.min(list.rows.length - 1, Math.max(0, place + by));
    go(list.rows[next]);
  },
};

// ---- addresses and keys

function go(one) {
  history.replaceState(null, "", address(one));
  browser.show(one);
}

function follow() {
  const hash = location.hash, isOverview = hash === "" || hash === "#overview";
  $("overview").hidden = !isOverview;
  $("samples").hidden = isOverview;
  for (const [id, isHere] of [["to-overview", isOverview], ["to-samples", !isOverview]]) {
    if (isHere) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  if (isOverview) return;
  list.draw(true);
  if (hash === "#samples") return;
  if (hash.startsWith("#samples?")) return void filters.choose(new URLSearchParams(hash.slice("#samples?".length)));
  const one = named(hash);
  if (one) browser.show(one);
  else list.report(t("{link} names no sample of this run", { link: hash }));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writes = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    event.preventDefault(); // the browser would clear the search field without an event
    if (event.target === $("search")) $("search").blur();
    else { $("search").value = ""; filters.apply(); }
    return;
  }
  if (writes) {
    if (event.key === "Enter" && event.target === $("search")) { event.target.blur(); browser.step(0); }
    return;
  }
  if (event.key === "t") return theme.toggle();
  if (event.key === "l") return language.toggle();
  if (event.key === "/") {
    event.preventDefault();
    if ($("samples").hidden) location.hash = "#samples";
    setTimeout(() => { $("search").focus(); $("search").select(); });
    return;
  }
  if ($("samples").hidden) return;
  const steps = { j: 1, k: -1, ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 };
  if (event.key in steps) {
    event.preventDefault();
    browser.step(steps[event.key]);
  } else if (event.key === "r" && $("reasoning")) $("reasoning").open = !$("reasoning").open;
}

async function start() {
  theme.restore();
  language.restore();
  $("language").addEventListener("click", language.toggle);
  $("theme").addEventListener("click", theme.toggle);
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", follow);
  $("next").addEventListener("click", () => browser.step(1));
  $("previous").addEventListener("click", () => browser.step(-1));
  list.start();
  plots.start();
  await readIndex();
  filters.start();
  await filters.apply();
  follow();
  document.documentElement.dataset.ready = "";
}

start();
