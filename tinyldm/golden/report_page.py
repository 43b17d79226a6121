"""The page that `report_html` fills in: its style, and the script of its table. `$name` marks what is filled in."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin-top: 2rem; }
h3 { font: 600 13px monospace; margin: .8rem 0 .2rem; flex-basis: 100%; }
.verdict { border-left: 5px solid; padding: .2rem 1rem; background: var(--soft); }
.good { border-color: #2a8a57; } .bad { border-color: #c8372d; }
.verdict p { margin: .3rem 0; overflow-wrap: anywhere; } .verdict p:first-child { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { font: 10px monospace; fill: currentColor; }
.grid { stroke: var(--line); } .mark { stroke: var(--line); stroke-dasharray: 2 3; }
.limit { fill: none; stroke: #d98300; stroke-width: 1.2; }
[data-i] { cursor: pointer; } circle:hover, rect:hover { stroke: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: 13px; margin: .3rem 0; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border: 1px solid var(--line); }
.grid2 { display: grid; grid-template-columns: repeat(auto-fill, minmax(430px, 1fr)); }
.thumbs { display: flex; align-content: start; flex-wrap: wrap; gap: .3rem 1rem; } figure { margin: 0; }
figure img { width: 128px; image-rendering: pixelated; border: 1px solid var(--line); } figcaption { font-size: 12px; }
.controls { display: flex; gap: 1rem; margin: .5rem 0; flex-wrap: wrap; } .scroll { max-height: 34rem; overflow: auto; }
.controls input[type=search] { flex: 1; min-width: 12rem; padding: .3rem; font: inherit; }
table { border-collapse: collapse; font: 12px monospace; width: 100%; }
th, td { padding: .15rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:nth-child(-n+2), td:nth-child(-n+2), th:last-child, td:last-child { text-align: left; }
th { cursor: pointer; position: sticky; top: 0; background: Canvas; } th[aria-sort=ascending]::after { content: " ▲"; }
th[aria-sort=descending]::after { content: " ▼"; }
tr.failed td:nth-child(2), tr.shape td:nth-child(2) { color: #c8372d; font-weight: 700; }
tr.inherited td:nth-child(2) { color: #d98300; }
tr.chosen { background: #2277cc44; } tr.first { background: #c8372d22; }
#tip { position: fixed; pointer-events: none; font: 12px monospace; background: Canvas; padding: .2rem .5rem;
  border: 1px solid; max-width: 90vw; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>$title: $status</h1>
<div class="verdict $status_class">
$verdict
</div>
<h2>What was compared</h2>
$sources
<h2>Error against depth</h2>
<p>Largest error of each tensor over the golden's largest value, in the order of execution. The line is the limit; the
large point is the first that is out of it. A click shows the tensor in the table.</p>
$depth
<h2>Tensors</h2>
<div class="controls">
<input type="search" id="filter" placeholder="filter by name, status or hint" aria-label="filter">
<label><input type="checkbox" id="failures"> only what is out of tolerance</label>
<span id="count"></span>
</div>
<div class="scroll" id="table"><table id="tensors"><thead><tr></tr></thead><tbody></tbody></table></div>
<h2>Pictures</h2>
$pictures
<h2>Share of the limit, by module and step</h2>
<p>Modules in the order of execution, the calls of their model to the right; a click shows the tensor in the table.</p>
$heat
<div id="tip" hidden></div>
<script>
const columns = ["tensor", "status", "of limit", "max abs", "max rel", "rmse", "inputs", "cosine", "ulp", "nan", "inf",
  "looks like"];
const rows = $rows;
const first = $first, most = 1000;
const head = document.querySelector("#tensors thead tr"), body = document.querySelector("#tensors tbody");
const filter = document.querySelector("#filter"), failures = document.querySelector("#failures");
let order = null, down = true, around = null;
function number(v) { return v === null ? -Infinity : v === "inf" || v === "nan" ? Infinity : v; }
function compare(a, b) {
  const x = a[order], y = b[order];
  if (order < 2 || order === columns.length - 1) return String(x).localeCompare(String(y));
  return number(x) - number(y) || 0;
}
function shown(v, i) {
  if (v === null) return "";
  return typeof v === "number" && i > 1 && !Number.isInteger(v) ? (i === 7 ? v.toFixed(7) : v.toExponential(2)) : v;
}
function draw() {
  const words = filter.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let kept = rows.filter(r => words.every(w => (r[0] + " " + r[1] + " " + r[r.length - 1]).toLowerCase().includes(w)));
  if (failures.checked) kept = kept.filter(r => r[1] !== "ok");
  if (order !== null) { kept = kept.slice().sort(compare); if (down) kept.reverse(); }
  const cut = kept.length > most ? Math.max(0, Math.min(kept.indexOf(around) - most / 2, kept.length - most)) : 0;
  body.replaceChildren(...kept.slice(cut, cut + most).map(r => {
    const tr = document.createElement("tr");
    tr.className = r[1] + (r[0] === first ? " first" : "") + (r === around ? " chosen" : "");
    r.forEach((v, i) => { tr.insertCell().textContent = shown(v, i); });
    return tr;
  }));
  document.querySelector("#count").textContent = kept.length + " of " + rows.length +
    (kept.length > most ? ", " + (cut + 1) + " to " + (cut + most) + " shown" : "");
}
function show(row, scroll) {
  filter.value = ""; failures.checked = false; around = row;
  draw();
  const tr = body.querySelector("tr.chosen"), box = document.querySelector("#table");
  if (!tr) return;
  box.scrollTop = tr.offsetTop - box.clientHeight / 2;
  if (scroll) box.scrollIntoView({block: "center"});
}
const tip = document.querySelector("#tip");
document.addEventListener("click", e => {
  const mark = e.target.closest("[data-i]");
  if (mark) show(rows[mark.dataset.i], true);
});
document.addEventListener("mousemove", e => {
  const mark = e.target.closest && e.target.closest("[data-i]"), r = mark && rows[mark.dataset.i];
  tip.hidden = !r;
  if (!r) return;
  tip.textContent = r[0] + ": " + shown(r[2], 2) + " of the limit, " + shown(r[4], 4) + " of the largest value";
  tip.style.left = Math.min(e.clientX + 12, innerWidth - tip.offsetWidth - 4) + "px";
  tip.style.top = (e.clientY > innerHeight / 2 ? e.clientY - 30 : e.clientY + 16) + "px";
});
columns.forEach((name, i) => {
  const th = document.createElement("th");
  th.textContent = name;
  th.tabIndex = 0;
  th.onclick = () => {
    down = order === i ? !down : i > 1;
    order = i;
    head.querySelectorAll("th").forEach(t => t.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    draw();
  };
  th.onkeydown = e => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); th.onclick(); } };
  head.append(th);
});
filter.oninput = failures.onchange = () => { around = null; draw(); };
draw();
if (first !== null) {
  const at = rows.findIndex(r => r[0] === first), cell = document.querySelector('#heat [data-i="' + at + '"]');
  show(rows[at], false);
  if (cell) {
    const box = cell.closest(".scroll");
    box.scrollTop = cell.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2;
  }
}
</script>
</body>
</html>
"""
