// What both pages share: elements, the stream of events that an answer is, and what is said beside a field.

export const at = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const duration = (s) => (s < 90 ? `${s < 10 ? s.toFixed(1) : Math.round(s)} s` : `${Math.round(s / 60)} min`);

export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const [name, data] = part.split("\n");
      yield { name: name.slice("event: ".length), data: JSON.parse(data.slice("data: ".length)) };
    }
  }
}

// Say what is wrong with a field, beside it.
export function blame(input, detail) {
  const id = `${input.id}-error`;
  let spot = at(id);
  if (!spot) {
    spot = element("p", { id, className: "error" });
    spot.setAttribute("role", "alert");
    input.after(spot);
  }
  spot.textContent = detail;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", id);
}

export function clear(form) {
  for (const spot of form.querySelectorAll(".error")) spot.textContent = "";
  for (const input of form.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
}
