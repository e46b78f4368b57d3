/** Parameters and display settings. What the user has changed is kept in the browser; the rest is as the model asks. */

import { $, element } from "./dom.js";

const SAVED = "nullm-settings";
const PARAMETERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.01, value: 0.8, hint: "0 always takes the most likely token; 1 draws as trained" },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01, value: 0.95, hint: "keep the most likely tokens up to this total probability" },
  { name: "min_p", label: "Min p", min: 0, max: 0.5, step: 0.01, value: 0, hint: "keep tokens at least this many times as likely as the best" },
  { name: "top_k", label: "Top k", min: 0, max: 200, step: 1, value: 0, hint: "keep the k most likely tokens; 0 keeps all" },
  { name: "repetition_penalty", label: "Repeat penalty", min: 1, max: 2, step: 0.01, value: 1, hint: "a value above 1 makes earlier tokens less likely" },
  { name: "max_tokens", label: "Max tokens", min: 1, max: 1024, step: 1, value: 200, hint: "the most tokens of an answer" },
];

export class Settings {
  constructor() {
    for (const parameter of PARAMETERS) {
      const output = element("output", {}, String(parameter.value));
      const input = element("input", { type: "range", id: parameter.name, min: parameter.min, max: parameter.max, step: parameter.step, value: parameter.value, title: parameter.hint });
      input.oninput = () => (output.textContent = input.value);
      $("parameters").append(element("label", { title: parameter.hint }, element("span", {}, parameter.label, output), input));
    }
    const seed = element("input", { id: "seed", inputMode: "numeric", placeholder: "random", pattern: "[0-9]*", maxLength: 15 });
    $("parameters").append(element("label", { title: "the same number gives the same random draw" }, "Seed", seed));
    this.fields = [...PARAMETERS.map((p) => $(p.name)), seed, $("system"), $("stop-strings"), $("tint"), $("show-cuts"), $("theme")];
    this.defaults = this.read();
    try {
      this.write(JSON.parse(localStorage.getItem(SAVED)) ?? {});
    } catch {
      localStorage.removeItem(SAVED);
    }
    $("settings").addEventListener("input", () => this.apply());
    $("reset").onclick = () => {
      this.write(this.defaults);
      this.apply();
    };
    this.apply();
  }

  read() {
    return Object.fromEntries(this.fields.map((field) => [field.id, field.type === "checkbox" ? field.checked : field.value]));
  }

  write(values) {
    for (const field of this.fields) {
      if (!(field.id in values)) continue;
      if (field.type === "checkbox") field.checked = values[field.id];
      else field.value = values[field.id];
      if (field.type === "range") field.oninput();
    }
  }

  /** Begin with what the authors of a model recommend, and end where the server's limits are. */
  suit({ recommended, limits, max_model_len: context }) {
    const changed = this.changed();
    const longest = Math.min(limits.max_tokens, context);
    $("max_tokens").max = longest;
    // A small model loses the thread soon; an answer of a large one may be long.
    const start = { ...recommended, max_tokens: Math.min(longest, Math.max(200, Math.min(1000, Math.floor(context / 8)))) };
    for (const { name, value } of PARAMETERS) {
      const input = $(name);
      const first = start[name] ?? value;
      input.min = Math.min(input.min, first);
      input.max = Math.max(input.max, first);
      input.value = first;
      this.defaults[name] = input.value; // rounded to the slider's steps
    }
    this.write({ ...this.defaults, ...changed });
  }

  /** The fields that differ from the defaults. */
  changed() {
    return Object.fromEntries(Object.entries(this.read()).filter(([name, value]) => value !== this.defaults[name]));
  }

  apply() {
    localStorage.setItem(SAVED, JSON.stringify(this.changed()));
    document.documentElement.dataset.theme = $("theme").value;
    document.body.classList.toggle("tinted", $("tint").checked);
  }

  /** The fields of a request. */
  sampling() {
    const body = {};
    for (const { name } of PARAMETERS) body[name] = Number($(name).value);
    const seed = $("seed").value.trim();
    if (/^\d+$/.test(seed)) body.seed = Number(seed);
    const stop = $("stop-strings").value.split("|").filter(Boolean);
    if (stop.length) body.stop = stop;
    return body;
  }
}
