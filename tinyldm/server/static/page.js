// The page: what is typed goes to the server as it stands, and the server says what is wrong with it. So the fields
// check nothing themselves, and an error reads the same here, in the command and in the API.

import { at, blame, clear, duration, element, events } from "./common.js";

const form = at("form");
const HINT = 4000; // milliseconds that an answer to a click stands before the steps are told again
const KEPT = "tinyldm pictures"; // where the browser keeps this tab's pictures until it is closed
const state = { model: null, working: null, pictures: [], bitmap: null };

// Fields --------------------------------------------------------------------------------------------------------------

const inputs = () => [...form.querySelectorAll("[name]")];

function values() {
  const given = {};
  for (const input of inputs()) given[input.name] = input.validity.badInput ? "?" : input.value;
  if (!state.bitmap) return given;
  given.image = at("image").toDataURL("image/png");
  if (isPainted()) given.mask = maskLink();
  return given;
}

function fill(settings) {
  for (const input of inputs()) {
    const value = settings[input.name];
    if (value === undefined || value === null) continue;
    if (input.tagName === "SELECT" && ![...input.options].some((o) => o.value === value)) input.add(new Option(value));
    input.value = value;
  }
  if (settings.guidance_rescale || settings.sampler_options) form.querySelector("details").open = true;
  showStrength();
  if (state.bitmap) draw();
}

function clearProblems() {
  at("notes").replaceChildren();
  clear(form);
}

function showProblem({ detail, field }) {
  const input = field && form.elements[field];
  if (!(input instanceof HTMLElement) || !input.checkVisibility({ contentVisibilityAuto: false }) && !input.closest("details")) {
    (["image", "mask"].includes(field) ? at(`${field}-error`) : at("problem")).textContent = detail;
    return;
  }
  blame(input, detail);
  const more = input.closest("details");
  if (more) more.open = true;
  input.focus();
}

// The work ------------------------------------------------------------------------------------------------------------

async function make() {
  if (state.working) return;
  clearProblems();
  state.working = new AbortController();
  busy(true);
  say("asking …");
  try {
    const { signal } = state.working;
    const body = JSON.stringify(values());
    const answer = await fetch("page/pictures", { method: "POST", body, signal, headers: { "Content-Type": "application/json" } });
    if (!answer.ok) {
      say("");
      showProblem(await answer.json());
      return;
    }
    let last = "";
    for await (const { name, data } of events(answer.body)) {
      last = name;
      on[name]?.(data);
    }
    if (!ENDS.includes(last)) say("the server ended before the picture was done");
  } catch (error) {
    say(error.name === "AbortError" ? "cancelled" : "the server does not answer; is it still running?");
  } finally {
    state.working = null;
    busy(false);
  }
}

const ENDS = ["done", "stopped", "failed"];
const on = {
  entered({ count, before }) {
    showTiles(Array.from({ length: count }, () => null));
    on.waits({ before });
  },
  waits({ before }) {
    say(before ? `waiting: ${before} before this` : "beginning …");
  },
  step({ part, step, steps, seconds, previews }) {
    at("bar").value = part;
    document.title = `${Math.round(100 * part)} % · tinyldm`;
    if (performance.now() > hinted) say(`step ${step} of ${steps}${seconds >= 1 ? `, about ${duration(seconds)} left` : ""}`);
    for (const [index, link] of Object.entries(previews)) preview(Number(index), link);
  },
  picture({ index, name, text, settings }) {
    const picture = { name, text, settings };
    remember(picture);
    const figure = at("tiles").children[index];
    if (figure) figure.replaceWith(shown(picture));
  },
  note({ text }) {
    at("notes").append(element("li", { textContent: text }));
  },
  done({ seconds }) {
    say(`done in ${duration(seconds)}`);
  },
  stopped() {
    say("cancelled");
  },
  failed(problem) {
    say("");
    showProblem(problem);
  },
};

function busy(working) {
  at("make").setAttribute("aria-disabled", working);
  at("cancel").hidden = !working;
  at("bar").hidden = !working;
  at("bar").value = 0;
  at("stage").setAttribute("aria-busy", working);
  if (!working) {
    document.title = "tinyldm";
    for (const figure of at("tiles").querySelectorAll("figure.waiting")) figure.remove();
    if (!at("tiles").children.length) showEmpty();
  }
}

const cancel = () => state.working?.abort();
const say = (text) => { at("status").textContent = text; };
let hinted = 0; // until when the status is what was last answered to a click
function hint(text) {
  say(text);
  hinted = performance.now() + HINT;
}

// Pictures ------------------------------------------------------------------------------------------------------------

const link = (name) => `pictures/${encodeURIComponent(name)}`;

function showEmpty() {
  at("tiles").replaceChildren(element("p", { className: "empty", textContent: "Your picture appears here." }));
}

function showTiles(pictures) {
  at("tiles").style.setProperty("--tile", pictures.length > 1 ? "14rem" : "26rem");
  at("tiles").replaceChildren(...pictures.map((picture) => (picture ? shown(picture) : waiting())));
}

function waiting() {
  return element("figure", { className: "waiting" }, element("div", { className: "frame" }));
}

function preview(index, source) {
  const frame = at("tiles").children[index]?.querySelector(".waiting .frame, .frame");
  if (!frame || frame.dataset.done) return;
  const image = frame.querySelector("img") ?? frame.appendChild(element("img", { className: "grown rough", alt: "as it looks so far" }));
  image.src = source;
}

function shown(picture) {
  const { settings, name } = picture;
  const image = element("img", { src: link(name), alt: settings.prompt || "the picture", width: settings.width, height: settings.height });
  if (settings.width < 400) image.classList.add("grown");
  const frame = element("div", { className: "frame" }, image);
  frame.dataset.done = "true";
  const save = element("a", { className: "button", href: link(name), download: name, textContent: "Save" });
  const again = element("button", { type: "button", textContent: "Settings", title: "Use its settings" });
  again.addEventListener("click", () => {
    fill(settings);
    hint(`settings of ${name}`);
  });
  const from = element("button", { type: "button", textContent: "Begin from", title: "Begin from this picture" });
  from.addEventListener("click", async () => begin(await (await fetch(link(name))).blob()));
  const what = element("span", { textContent: `seed ${settings.seed}, ${settings.width}×${settings.height}`, title: picture.text });
  return element("figure", {}, frame, element("figcaption", {}, what, save, from, again));
}

function remember(picture) {
  state.pictures.unshift(picture);
  keepPictures();
  showGallery();
}

function keepPictures() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(state.pictures.slice(0, 200)));
  } catch {} // a browser may forbid it: the pictures are then those since the page was loaded
}

function showGallery() {
  at("gallery").hidden = !state.pictures.length;
  at("pictures").replaceChildren(...state.pictures.map((picture) => {
    const image = element("img", { src: link(picture.name), alt: picture.settings.prompt || picture.name, loading: "lazy" });
    image.addEventListener("error", () => forgetPicture(picture));
    const open = element("button", { type: "button", title: picture.text }, image);
    open.addEventListener("click", () => {
      if (state.working) return hint("the picture under way is shown first; cancel it to look at others");
      showTiles([picture]);
      say(picture.name);
      for (const other of at("pictures").querySelectorAll("button")) other.removeAttribute("aria-current");
      open.setAttribute("aria-current", "true");
      at("stage").scrollIntoView({ block: "nearest" });
    });
    return element("li", {}, open);
  }));
}

function forgetPicture(picture) { // its file is gone
  state.pictures = state.pictures.filter((other) => other !== picture);
  keepPictures();
  showGallery();
}

// A picture to begin from -----------------------------------------------------------------------------------------------

async function begin(file) {
  at("image-error").textContent = "";
  try {
    state.bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    at("image-error").textContent = `${file.name ?? "the file"} is no picture that the browser can read`;
    return;
  }
  const { factor, defaults } = state.model;
  const scale = Math.sqrt((defaults.width * defaults.height) / (state.bitmap.width * state.bitmap.height));
  const fit = (side) => Math.max(1, Math.round((side * Math.min(1, scale)) / factor)) * factor;
  at("width").value = fit(state.bitmap.width);
  at("height").value = fit(state.bitmap.height);
  at("beginning").hidden = false;
  clearMask();
  draw();
}

function draw() { // as much of the picture as has the shape that is asked for
  const { bitmap, model } = state;
  const bounded = (value, usual) => Math.min(4096, Math.max(1, Math.round(Number(value) || usual)));
  const canvas = at("image");
  canvas.width = bounded(at("width").value, model.defaults.width);
  canvas.height = bounded(at("height").value, model.defaults.height);
  at("easel").style.setProperty("--ratio", canvas.width / canvas.height);
  keepMask(canvas.width, canvas.height);
  const scale = Math.max(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const [w, h] = [canvas.width / scale, canvas.height / scale];
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, canvas.width, canvas.height);
}

function forget() {
  state.bitmap = null;
  at("beginning").hidden = true;
  at("image_file").value = "";
  at("image_file").focus();
}

function showStrength() {
  at("strength_shown").textContent = Number(at("strength").value).toFixed(2);
}

// The mask --------------------------------------------------------------------------------------------------------------
// A canvas over the picture: what has colour in it is to be painted anew. Pointers and keys move one brush.

const brush = { x: 0.5, y: 0.5, down: false }; // as parts of the canvas

const maskPen = () => at("mask").getContext("2d", { willReadFrequently: true });

function clearMask() {
  maskPen().clearRect(0, 0, at("mask").width, at("mask").height);
}

function isPainted() {
  const { data } = maskPen().getImageData(0, 0, at("mask").width, at("mask").height);
  return data.some((value, i) => i % 4 === 3 && value > 127);
}

function keepMask(width, height) { // in another size, what was painted is scaled
  const mask = at("mask");
  if (mask.width === width && mask.height === height) return;
  const before = element("canvas", { width: mask.width, height: mask.height });
  before.getContext("2d").drawImage(mask, 0, 0);
  Object.assign(mask, { width, height });
  maskPen().drawImage(before, 0, 0, width, height);
}

function maskLink() {
  const { width, height } = at("mask");
  const sheet = element("canvas", { width, height });
  const pen = sheet.getContext("2d");
  pen.drawImage(at("mask"), 0, 0);
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.globalCompositeOperation = "destination-over";
  pen.fillStyle = "black";
  pen.fillRect(0, 0, width, height);
  return sheet.toDataURL("image/png");
}

const brushSize = (side) => (Number(at("brush").value) / 100) * side;

function paint(from) {
  const mask = at("mask");
  const pen = maskPen();
  pen.globalCompositeOperation = at("erase").checked ? "destination-out" : "source-over";
  pen.strokeStyle = "#3b5bdb";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = Math.max(1, brushSize(Math.max(mask.width, mask.height)));
  pen.beginPath();
  pen.moveTo(from.x * mask.width, from.y * mask.height);
  pen.lineTo(brush.x * mask.width + 0.01, brush.y * mask.height);
  pen.stroke();
}

function showRing(shown = true) {
  const box = at("mask").getBoundingClientRect();
  const around = at("easel").getBoundingClientRect();
  const size = brushSize(Math.max(box.width, box.height));
  Object.assign(at("ring").style, {
    left: `${box.left - around.left + brush.x * box.width}px`,
    top: `${box.top - around.top + brush.y * box.height}px`,
    width: `${size}px`,
    height: `${size}px`,
  });
  at("ring").hidden = !shown;
}

function place(event) {
  const box = at("mask").getBoundingClientRect();
  const from = { ...brush };
  brush.x = (event.clientX - box.left) / box.width;
  brush.y = (event.clientY - box.top) / box.height;
  return from;
}

at("mask").addEventListener("pointerdown", (event) => {
  if (event.button) return;
  at("mask").setPointerCapture(event.pointerId);
  place(event);
  brush.down = true;
  paint(brush);
  showRing();
});
at("mask").addEventListener("pointermove", (event) => {
  const from = place(event);
  if (brush.down) paint(from);
  showRing();
});
for (const type of ["pointerup", "pointercancel"]) at("mask").addEventListener(type, () => { brush.down = false; });
for (const type of ["pointerleave", "blur"]) at("mask").addEventListener(type, () => showRing(false));
at("mask").addEventListener("focus", () => showRing(at("mask").matches(":focus-visible")));
at("mask").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] };
  const move = moves[event.key];
  if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  brush.x = Math.min(1, Math.max(0, brush.x + move[0] * 0.04));
  brush.y = Math.min(1, Math.max(0, brush.y + move[1] * 0.04));
  if (event.key === " ") paint(brush);
  showRing();
});
at("clear").addEventListener("click", clearMask);

// Settings out of a PNG -------------------------------------------------------------------------------------------------

async function read(file) {
  clearProblems();
  try {
    const answer = await fetch("page/settings", { method: "POST", body: file });
    const said = await answer.json();
    if (!answer.ok) return showProblem({ detail: `${file.name}: ${said.detail}` });
    fill(said);
    hint(`settings of ${file.name}${said.began_from ? "; it began from another picture, which is not in the file" : ""}`);
  } catch {
    say("the server does not answer; is it still running?");
  }
}

// What a person does ----------------------------------------------------------------------------------------------------

form.addEventListener("submit", (event) => { event.preventDefault(); make(); });
at("cancel").addEventListener("click", () => { cancel(); at("make").focus(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") cancel();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); make(); }
});
at("strength").addEventListener("input", showStrength);
at("image_file").addEventListener("change", (event) => event.target.files[0] && begin(event.target.files[0]));
at("forget").addEventListener("click", forget);
at("settings_file").addEventListener("change", async (event) => {
  if (event.target.files[0]) await read(event.target.files[0]);
  event.target.value = "";
});
for (const side of ["width", "height"]) at(side).addEventListener("change", () => state.bitmap && draw());
for (const type of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", type === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file) (event.target.closest?.("#begin") ? begin : read)(file);
});

async function open() {
  const model = (state.model = await (await fetch("page/model")).json());
  at("model").textContent = model.name;
  for (const name of ["steps", "guidance_scale", "width", "height"]) at(name).placeholder = model.defaults[name];
  at("strength").value = model.defaults.strength;
  showStrength();
  at("sampler").add(new Option(`${model.defaults.sampler} (the model's own)`, ""));
  for (const { name, summary } of model.samplers) at("sampler").add(Object.assign(new Option(name), { title: summary }));
  if (model.takes === "classes") form.querySelector("label[for=prompt]").textContent = "Number of a class";
  if (model.takes === "nothing") form.querySelector("label[for=prompt]").textContent = "Prompt (this model takes none)";
  at("pull").hidden = model.beside !== "image";
  at("change").hidden = model.beside === "image";
  at("negative").hidden = model.takes !== "text";
  try {
    state.pictures = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
  } catch {
    state.pictures = [];
  }
  showGallery();
}
open();
