// The laboratory's page: what is moved goes to the server, which answers with what the real model makes of it. The walk
// itself is kept there, so that looking into it is immediate; a newer question of a panel takes the place of the older.

import { at, blame, clear, duration, element, events } from "./common.js";

const form = at("form");
const SHARED = ["prompt", "negative_prompt", "guidance_scale", "steps", "seed", "sampler"];
const OWN = {
  prompt: ["compare", "step"],
  walk: ["step"],
  decoder: ["scale", "shift", "noise", "only", "channels"],
  samplers: ["samplers", "counts"],
  words: ["step", "word", "layer"],
  schedule: ["betas", "zero_snr", "spacing", "levels"],
};
const LOOKS = ["step", "word", "layer", "scale", "shift", "noise", "only", "channels"]; // into a walk that is there
const PATIENCE = 5; // seconds: walks that take longer begin when it is said, not at every change
const state = { model: null, panel: "", values: {}, usual: {}, asking: {}, timer: 0, slow: false, strip: "" };

// Fields --------------------------------------------------------------------------------------------------------------

const named = (name) => [...form.querySelectorAll(`[name="${name}"]`)];
const visible = (input) => input.type !== "hidden" && (input.checkVisibility() || input.closest("#more"));
const names = (panel) => (panel === "schedule" ? ["sampler", "steps"] : SHARED).concat(OWN[panel]);

function show(name, value, except = null) { // the value of a field in all its inputs, and in its slider
  for (const input of named(name)) {
    if (input === except) continue;
    if (input.type === "checkbox") input.checked = value === "true";
    else if (input.type !== "range" || value !== "") input.value = value;
    const slider = form.querySelector(`[data-for="${input.id}"]`);
    if (slider) slider.value = value === "" ? state.usual[name] ?? input.placeholder : value;
  }
}

function set(name, value, except = null) {
  state.values[name] = String(value);
  show(name, state.values[name], except);
}

function read(input) {
  if (input.type === "checkbox") return input.checked ? "true" : "";
  return input.validity.badInput ? "?" : input.value;
}

function address() { // what is not as usual, and the panel
  const query = new URLSearchParams(names(state.panel).filter((name) => state.values[name] || ["prompt", "compare"].includes(name)).map((name) => [name, state.values[name]]));
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}#${state.panel}`);
}

// Asking --------------------------------------------------------------------------------------------------------------

const say = (text) => { at("status").textContent = text; };

function soon(name, wait) {
  clearTimeout(state.timer);
  address();
  if (state.slow && !LOOKS.includes(name) && state.panel !== "schedule") {
    say("changed; press Enter to compute it");
    return;
  }
  state.timer = setTimeout(ask, wait);
}

async function ask() {
  clearTimeout(state.timer);
  const panel = state.panel;
  const given = Object.fromEntries(names(panel).map((name) => [name, state.values[name] ?? ""]));
  const walk = JSON.stringify(SHARED.map((name) => state.values[name]));
  if (panel === "walk") given.strip = state.strip !== walk;
  const body = JSON.stringify(given);
  busy();
  if (state.asking[panel]?.body === body) return; // it is being answered
  state.asking[panel]?.abort();
  const mine = (state.asking[panel] = Object.assign(new AbortController(), { body }));
  clear(form);
  at("notes").replaceChildren();
  let [last, images] = ["", 0];
  try {
    const answer = await fetch(`explore/${panel}`, { method: "POST", body, signal: mine.signal, headers: { "Content-Type": "application/json" } });
    if (!answer.ok) return problem(await answer.json());
    for await (const { name, data } of events(answer.body)) {
      last = name;
      if (name === "found") {
        if (data.strip && panel === "walk") state.strip = walk;
        images += "image" in data;
        shown[panel](data);
      } else if (panel === state.panel) on[name]?.(data);
      const walked = name === "done" && !at("bar").hidden; // and not only looked into a walk
      if (walked) state.slow = data.seconds / Math.max(1, images) > PATIENCE;
    }
    if (!ENDS.includes(last)) say("the server ended before it was done");
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!/fetch|network|load/i.test(error.message)) throw error;
    say("the server does not answer; is it still running?");
  } finally {
    if (state.asking[panel] === mine) {
      state.asking[panel] = null;
      if (panel === state.panel) idle();
    }
  }
}

function busy() {
  at("panels").setAttribute("aria-busy", "true");
  at("cancel").hidden = false;
}

function idle() {
  at("panels").setAttribute("aria-busy", "false");
  for (const id of ["cancel", "bar", "growing"]) at(id).hidden = true;
}

function cancel() {
  const asking = state.asking[state.panel];
  if (!asking) return;
  asking.abort();
  state.asking[state.panel] = null;
  idle();
  say("cancelled");
}

const ENDS = ["done", "stopped", "failed"];
const on = {
  entered({ before }) {
    on.waits({ before });
  },
  waits({ before }) {
    say(before ? `waiting: ${before} before this` : "computing …");
  },
  step({ part, step, steps, seconds, previews }) {
    at("bar").hidden = false;
    at("bar").value = part;
    say(`step ${step} of ${steps}${seconds >= 1 ? `, about ${duration(seconds)} left` : ""}`);
    if (previews[0]) Object.assign(at("growing"), { src: previews[0], hidden: false });
  },
  note({ text }) {
    at("notes").append(element("li", { textContent: text }));
  },
  done({ seconds }) {
    say(seconds ? `done in ${duration(seconds)}` : "done at once");
  },
  stopped() {
    say("cancelled");
  },
  failed(said) {
    problem(said);
  },
};

function problem({ detail, field }) {
  say("");
  const input = field === "samplers" ? at("f-samplers-0") : field && named(field).find(visible);
  if (input) {
    blame(input, detail);
    if (input.closest("details")) input.closest("details").open = true;
  } else at("problem").textContent = detail;
}

// Pictures and numbers ------------------------------------------------------------------------------------------------

const picture = (source, alt, more = {}) => element("img", { src: source, alt, ...more });
const exact = (source, alt) => picture(source, alt, { className: "exact" });
const fixed = (value, digits = 2) => (value === null || value === undefined ? "–" : Number(value).toFixed(digits));

function fill(frame, source, alt, className = "") { // the same image again, so that nothing jumps
  const image = frame.querySelector("img") ?? frame.appendChild(element("img"));
  Object.assign(image, { src: source, alt, className });
}

function figure(source, alt, caption, says, className = "") {
  const frame = element("div", { className: "frame" }, picture(source, alt, { className }));
  return element("figure", {}, frame, element("figcaption", {}, caption, element("span", { textContent: says })));
}

function steps(panel, { step, steps: count, timestep }, ends) {
  for (const input of named("step")) input.max = input.closest(".panel").id === "walk" ? count + 1 : count;
  if (!state.values.step) for (const input of named("step")) input.value = step;
  const when = timestep === null ? "the end" : `timestep ${Math.round(timestep * 10) / 10}`;
  at(`${panel}-step`).textContent = ends && step > count ? `after all ${count} steps` : `step ${step} of ${count}, ${when}`;
}

const SVG = "http://www.w3.org/2000/svg";
function drawn(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const power = (k) => (k === 0 ? "1" : `10${String(k).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)])}`);

// A chart of lines over x. `lines` are { y, kind, name }, `dots` { x, y }; with `log` the values are drawn by their
// logarithms. Returns the picture; its `move(x)` sets the cursor.
function chart(title, x, lines, { log = false, dots = null, label = "" } = {}) {
  const [W, H, L, R, T, B] = [300, 190, 36, 8, 24, 30];
  const height = (v) => (v === null || (log && v <= 0) ? NaN : log ? Math.log10(v) : v);
  const all = lines.flatMap(({ y }) => y.map(height)).filter(Number.isFinite);
  const [low, high] = [Math.min(...all, log ? Infinity : 0), Math.max(...all)];
  const [x0, x1] = [Math.min(...x), Math.max(...x)];
  const place = (v) => L + ((v - x0) / (x1 - x0 || 1)) * (W - L - R);
  const level = (v) => T + (1 - (height(v) - low) / (high - low || 1)) * (H - T - B);
  const svg = drawn("svg", { viewBox: `0 0 ${W} ${H}`, class: "chart", role: "img", "aria-label": `${title} by ${label}` });
  svg.append(drawn("text", { x: L, y: 13, class: "title" }, title));
  svg.append(drawn("path", { class: "axis", d: `M${L},${T}V${H - B}H${W - R}` }));
  const every = Math.ceil((high - low) / 4) || 1; // decades between two marks
  const marks = log ? Array.from({ length: 30 }, (_, i) => (i - 15) * every).filter((k) => k >= low && k <= high) : [0, 0.5, 1].map((part) => low + part * (high - low));
  for (const mark of marks) {
    const y = T + (1 - (mark - low) / (high - low || 1)) * (H - T - B) + 4;
    svg.append(drawn("text", { x: L - 5, y, "text-anchor": "end" }, log ? power(mark) : Number(mark.toPrecision(2))));
  }
  for (const part of [0, 0.5, 1]) {
    const across = x0 + part * (x1 - x0);
    svg.append(drawn("text", { x: place(across), y: H - B + 14, "text-anchor": ["start", "middle", "end"][part * 2] }, Math.round(across)));
  }
  svg.append(drawn("text", { x: (W + L) / 2, y: H - 3, "text-anchor": "middle" }, label));
  let key = W - R;
  for (const { y, kind = "", name } of lines) {
    const points = y.map((v, i) => [place(x[i]), level(v)]).filter(([, v]) => Number.isFinite(v));
    svg.append(drawn("polyline", { class: `line ${kind}`, points: points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ") }));
    if (!name) continue;
    svg.append(drawn("text", { x: key, y: 13, class: `key ${kind}`, "text-anchor": "end" }, name));
    key -= name.length * 6 + 14;
  }
  for (let i = 0; dots && i < dots.x.length; i++) {
    if (Number.isFinite(level(dots.y[i]))) svg.append(drawn("circle", { class: "dot", cx: place(dots.x[i]), cy: level(dots.y[i]), r: 3.2 }));
  }
  const cursor = svg.appendChild(drawn("line", { class: "cursor", y1: T, y2: H - B }));
  svg.move = (v) => { for (const end of ["x1", "x2"]) cursor.setAttribute(end, place(v)); };
  svg.move(x1);
  return svg;
}

// What each panel shows -----------------------------------------------------------------------------------------------

const shown = {
  prompt(found) {
    if (found.tokens) {
      at("prompt-tokens").replaceChildren(...found.tokens.map((text) => element("li", { textContent: text })));
      state.fresh = true; // the pictures of before stay until the first new one is there
    }
    if (found.image) scale(found);
    if (!found.predictions) return;
    steps("prompt", found);
    const titles = { unconditional: "Without the prompt", conditional: "With the prompt", difference: "What the prompt adds", guided: "Guided" };
    at("prompt-predictions").replaceChildren(...Object.entries(found.predictions).map(([name, source]) =>
      figure(source, `${titles[name]}: the channels of the predicted noise`, titles[name],
        `deviation ${fixed(found.deviations[name])}${name === "difference" ? ", drawn stronger" : ""}`, "exact")));
  },

  walk(found) {
    if (found.strip) {
      at("walk-strip").replaceChildren(...found.strip.map((source, i) => picture(source, "", { onclick: () => { set("step", i + 1); soon("step", 0); } })));
      const x = found.numbers.latent.map((_, i) => i + 1);
      const { latent, clean, likeness } = found.numbers;
      state.charts = [
        chart("Deviation", x, [{ y: latent, name: "latent" }, { y: clean, kind: "second", name: "clean" }], { label: "step" }),
        chart("Likeness of the promise to the end", x, [{ y: likeness, kind: "second" }], { label: "step" }),
      ];
      at("walk-charts").replaceChildren(...state.charts);
    }
    if (found.latent) {
      steps("walk", found, true);
      [...at("walk-strip").children].forEach((image, i) => image.classList.toggle("chosen", i === found.step - 1));
      for (const svg of state.charts ?? []) svg.move(found.step);
      fill(at("walk-latent"), found.latent, "the channels of the latent", "exact");
      fill(at("walk-clean"), found.clean, "the channels of the promised clean latent", "exact");
      for (const which of ["latent", "clean"]) {
        if (state.slow) fill(at(`walk-${which}_picture`), found[`${which}_rough`], "its colours, without the decoder", "rough");
      }
      at("walk-latent-says").textContent = `deviation ${fixed(found.deviation)}; ${fixed(100 * found.share, 1)} % of its power is signal`;
      at("walk-clean-says").textContent = `deviation ${fixed(found.clean_deviation)}`;
    }
    for (const which of ["latent", "clean"]) {
      if (found[`${which}_picture`]) fill(at(`walk-${which}_picture`), found[`${which}_picture`], `the ${which} latent, decoded`);
    }
  },

  decoder(found) {
    for (const side of at("decoder-pair").children) {
      const news = found[side.dataset.which];
      if (!news) continue;
      if (news.latent) fill(side.querySelector(".latent"), news.latent, "the channels of the latent", "exact");
      if (news.picture) fill(side.querySelector(".picture"), news.picture, "the latent, decoded");
      if ("score" in news) side.querySelector(".report").replaceChildren(...score(news.score));
      if (news.report) side.querySelector(".report").replaceChildren(...report(news.report, found.notes));
    }
  },

  samplers(found) {
    if (found.rows) {
      const head = element("tr", {}, element("td"), ...found.columns.map((n) => element("th", { textContent: `${n} steps`, scope: "col" })));
      const rows = found.rows.map((name) => element("tr", {}, element("th", { textContent: name, scope: "row" }),
        ...found.columns.map(() => element("td", {}, element("p", { className: "empty", textContent: "…" })))));
      at("samplers-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
      return;
    }
    const cells = at("samplers-table").tBodies[0].rows[found.row].querySelectorAll("td");
    if (found.image) {
      const name = at("samplers-table").tBodies[0].rows[found.row].cells[0].textContent;
      cells[found.column].replaceChildren(picture(found.image, `by ${name}`), element("span", { textContent: `${found.calls} calls` }));
    }
    found.apart?.forEach((levels, i) => cells[i].lastChild.append(i < found.apart.length - 1 ? `, ${levels.toFixed(1)} apart` : ""));
  },

  words(found) {
    if (found.picture) {
      fill(at("words-over"), found.picture, state.values.prompt || "the picture");
      return;
    }
    steps("words", found);
    const layer = at("f-layer");
    layer.replaceChildren(new Option("all, as a mean", ""), ...found.layers.slice(1).map((name) => new Option(short(name), name)));
    layer.value = state.values.layer;
    const word = found.tokens[found.word];
    at("words-tokens").replaceChildren(...found.tokens.map((text, i) => {
      const map = exact(found.maps[i], "");
      const button = element("button", { type: "button", onclick: () => { set("word", i); soon("word", 0); } }, text, map);
      button.setAttribute("aria-pressed", i === found.word);
      return button;
    }));
    if (state.pressed) at("words-tokens").children[found.word].focus();
    at("words-says").textContent = `“${word}” takes ${fixed(100 * found.shares[found.word], 1)} % of the attention in this step`;
    at("words-strip-says").textContent = `“${word}” over the steps`;
    const map = at("words-over").querySelector(".map") ?? element("img", { className: "map exact" });
    Object.assign(map, { src: found.maps[found.word], alt: `where “${word}” is looked at` });
    if (!at("words-over").firstChild) fill(at("words-over"), found.maps[found.word], "");
    at("words-over").append(map);
    at("words-strip").replaceChildren(...found.strip.map(({ step, map: source }) => figure(source, `“${word}” in step ${step}`, "", `step ${step}`, "exact")));
  },

  schedule(found) {
    state.schedule = found;
    const { curve, own, visited } = found;
    const make = (title, name, log) => chart(title, curve.timesteps,
      [{ y: own[name], kind: "own" }, { y: curve[name] }], { log, label: "timestep", dots: { x: visited.timesteps, y: visited[name] } });
    state.curves = [make("ᾱ, the signal's share of the power", "alpha_bar", false), make("Signal-to-noise ratio", "snr", true), make("σ, noise per signal", "sigma", true)];
    at("schedule-charts").replaceChildren(...state.curves);
    const times = visited.timesteps.map((t) => Math.round(t * 10) / 10);
    const more = times.length > 12 ? `${times.slice(0, 6).join(", ")}, …, ${times.slice(-3).join(", ")}` : times.join(", ");
    at("schedule-visits").textContent = `${found.sampler} visits ${times.length} timesteps: ${more}`;
    readSchedule();
  },
};

const short = (path) => path.replace(/\.transformer_blocks\.(\d+)\.attn2$/, (_, k) => (k === "0" ? "" : `, block ${k}`));

function scale(found) { // the first of an answer is the one that is asked for; the others follow in their order
  const says = `deviation ${fixed(found.deviation)}, ${fixed(100 * found.clipped, 1)} % clipped${found.score === null ? "" : `, score ${fixed(found.score)}`}`;
  const made = figure(found.image, `at guidance ${found.scale}`, `Guidance ${found.scale}`, says);
  if (state.fresh) at("prompt-scales").replaceChildren();
  if (state.fresh) made.className = "chosen";
  state.fresh = false;
  at("prompt-scales").append(made);
}

function score(value) {
  if (value === null) return [];
  const meter = element("meter", { min: 0, max: 4, low: 1, high: 2, optimum: 0, value: Math.min(4, value), title: `score ${fixed(value)}` });
  return [element("p", { className: "score" }, `Score ${fixed(value)}`, value > 1 ? " (the limit is 1)" : ""), meter];
}

function report({ score: value, mean, std, faults, ok }, notes) {
  const row = (name, values) => element("tr", {}, element("th", { textContent: name, scope: "row" }), ...values.map((v) => element("td", { textContent: fixed(v) })));
  const table = element("table", {}, row("channel", []), row("mean", mean), row("deviation", std));
  table.rows[0].append(...mean.map((_, i) => element("th", { textContent: i, scope: "col" })));
  const said = faults.map((fault) => element("p", { className: "fault" }, element("strong", { textContent: fault.name }), `: ${fault.seen}; ${fault.remedy}`));
  const fits = ok ? [element("p", { className: "fits", textContent: "It fits." })] : [];
  return [...score(value), ...fits, ...said, table, ...(notes ?? []).map((text) => element("p", { className: "hint", textContent: text }))];
}

function readSchedule() {
  const { curve } = state.schedule;
  const i = Number(at("schedule-at").value);
  const [t, a, snr, sigma] = [curve.timesteps, curve.alpha_bar, curve.snr, curve.sigma].map((values) => values[i]);
  const says = (value) => (value === null ? "∞" : Number(value.toPrecision(3)));
  at("schedule-says").textContent = `t = ${t}: ᾱ = ${says(a)}, signal ${says(Math.sqrt(a))}, noise ${says(Math.sqrt(1 - a))}, SNR ${says(snr)}, σ = ${says(sigma)}`;
  for (const svg of state.curves) svg.move(t);
}

// Sources -------------------------------------------------------------------------------------------------------------

async function sources() {
  const { panel, values } = state;
  const samplers = panel === "samplers" ? values.samplers || state.model.compared : values.sampler;
  const more = panel === "schedule" ? { levels: values.levels, zero_snr: values.zero_snr } : {};
  const chosen = String(new URLSearchParams({ samplers, ...more }));
  const spot = at(panel).querySelector(".sources");
  if (spot.dataset.of === chosen) return;
  const answer = await fetch(`explore/sources/${panel}?${chosen}`);
  if (!answer.ok) return; // there is no such sampler: the panel says so
  const found = await answer.json();
  spot.dataset.of = chosen;
  spot.querySelector("summary").replaceChildren("Computed by ", ...found.flatMap(({ name }, i) => [i ? ", " : "", element("code", { textContent: name.replace(/^tinyldm\./, "") })]));
  spot.querySelector("div").replaceChildren(...found.flatMap(({ name, file, line, text }) => [
    element("h4", {}, element("code", { textContent: name }), element("span", { textContent: ` ${file}:${line}` })),
    element("pre", { tabIndex: 0 }, element("code", { textContent: text })),
  ]));
}

// Panels --------------------------------------------------------------------------------------------------------------

function open(focus = true) {
  const wanted = location.hash.slice(1) in OWN ? location.hash.slice(1) : "prompt";
  if (wanted === state.panel) return;
  state.panel = wanted;
  for (const panel of form.querySelectorAll(".panel")) panel.hidden = panel.id !== state.panel;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${state.panel}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  idle();
  address();
  sources();
  if (focus) at(`${state.panel}-title`).focus();
  ask();
}

// What a person does --------------------------------------------------------------------------------------------------

form.addEventListener("input", ({ target }) => {
  const name = target.name || at(target.dataset.for)?.name;
  if (!name) return;
  set(name, read(target), target.dataset.for ? null : target);
  if (["sampler", "levels", "zero_snr"].includes(name)) sources();
  soon(name, target.type === "range" ? 60 : target.tagName === "SELECT" || target.type === "checkbox" ? 0 : 450);
});
form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || !["TEXTAREA", "INPUT"].includes(event.target.tagName)) return;
  event.preventDefault();
  ask();
});
form.addEventListener("click", ({ target }) => {
  if (!target.dataset?.move) return;
  const slider = target.parentElement.querySelector("input");
  set("step", Math.min(Number(slider.max), Math.max(1, Number(slider.value) + Number(target.dataset.move))));
  soon("step", 0);
});
form.addEventListener("focusin", ({ target }) => { state.pressed = target.closest("#words-tokens") !== null; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") cancel(); });
at("cancel").addEventListener("click", cancel);
at("schedule-at").addEventListener("input", () => state.schedule && readSchedule());
for (const type of ["hashchange", "popstate"]) addEventListener(type, () => setTimeout(open)); // the browser moves the focus first

const quick = {
  swap: () => set("channels", order((k) => (k < 2 ? 1 - k : k))),
  zero: () => set("channels", order((k) => (k ? k : "-"))),
  unscaled: () => set("scale", Number((1 / state.model.scaling_factor).toPrecision(4))),
  unchanged: () => { for (const name of OWN.decoder) set(name, ""); },
};
const order = (place) => Array.from({ length: state.model.channels }, (_, k) => place(k)).join(" ");
for (const [id, change] of Object.entries(quick)) at(id).addEventListener("click", () => { change(); soon("scale", 0); });

function chooseSamplers() { // a select for each, and a last one for another
  const chosen = (state.values.samplers || state.model.compared.join(",")).split(/[ ,]+/).filter(Boolean);
  const spot = at("samplers-chosen").querySelector(".selects");
  spot.replaceChildren(...[...chosen, ""].slice(0, 4).map((name, i) => {
    const select = element("select", {}, new Option(i < chosen.length ? "(none)" : "another …", ""), ...state.model.samplers.map((one) => new Option(one.name)));
    if (name && ![...select.options].some((option) => option.value === name)) select.add(new Option(name));
    Object.assign(select, { value: name, id: `f-samplers-${i}` });
    select.setAttribute("aria-label", `Sampler ${i + 1}`);
    select.addEventListener("change", () => {
      set("samplers", [...spot.children].map((other) => other.value).filter(Boolean).join(","));
      chooseSamplers();
      spot.children[Math.min(i, spot.children.length - 1)].focus();
      sources();
      soon("samplers", 0);
    });
    return select;
  }));
}

async function start() {
  const model = (state.model = await (await fetch("explore/model")).json());
  at("model").textContent = model.name;
  state.usual = { ...model.defaults, scale: "1", shift: "0", noise: "0", channels: "" };
  at("f-sampler").add(new Option(`${model.defaults.sampler} (the model's own)`, ""));
  for (const { name, summary } of model.samplers) at("f-sampler").add(Object.assign(new Option(name), { title: summary }));
  for (const name of model.levels) at("f-levels").add(new Option(name));
  for (let k = 0; k < model.channels; k++) at("f-only").add(new Option(`channel ${k}`, k));
  at("f-channels").placeholder = order((k) => k);
  for (const name of ["steps", "guidance_scale"]) at(`f-${name}`).placeholder = model.defaults[name];
  at("f-seed").placeholder = "0";
  if (model.takes === "classes") at("prompt-label").textContent = "Number of a class";
  at("f-prompt").closest(".field").hidden = model.takes === "nothing";
  at("negative").hidden = !model.takes_negative || model.takes !== "text";
  at("guided").hidden = model.takes === "nothing";
  const asked = new URLSearchParams(location.search);
  for (const name of new Set([...SHARED, ...Object.values(OWN).flat()])) set(name, asked.get(name) ?? "");
  if (!asked.has("prompt") && model.example) set("prompt", model.example);
  if (!asked.has("compare")) set("compare", model.compare);
  chooseSamplers();
  at("more").open = matchMedia("(min-width: 52rem)").matches;
  open(false);
}
start();
