/** A look inside one token: its numbers, the alternatives, and where every head of every layer looked. */

import { ask } from "./api.js";
import { $, element } from "./dom.js";
import { alternativesOf } from "./popover.js";
import { bits, percent, probability, visible } from "./probability.js";

export class Inspector {
  /** @param branch called with a node, a token's index and an alternative; @param model gives the current model */
  constructor(transcript, branch, model) {
    Object.assign(this, { transcript, branch, model, request: null, span: null });
    $("close-inspector").onclick = () => this.close();
    $("inspector").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      const span = this.span;
      this.close();
      span?.focus();
    });
    $("heads").addEventListener("keydown", (event) => this.move(event));
  }

  show(node, index) {
    const token = node.tokens[index];
    this.mark(this.transcript.spanOf(node, index));
    $("inspector").classList.add("open");
    if (matchMedia("(max-width: 68rem)").matches) this.span?.scrollIntoView({ block: "start", behavior: "smooth" });
    $("inspector-empty").hidden = true;
    $("inspector-body").hidden = false;
    $("inspected").textContent = visible(token.text) || "a part of a character";
    $("facts").replaceChildren(...this.facts(token).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    $("alternatives").replaceChildren(...alternativesOf(token, (other) => this.branch(node, index, other)));
    this.look([...node.promptIds, ...node.tokens.slice(0, index).map((before) => before.id)]);
  }

  close() {
    this.mark(null);
    this.request?.abort();
    $("inspector").classList.remove("open");
    $("inspector-empty").hidden = false;
    $("inspector-body").hidden = true;
  }

  mark(span) {
    this.span?.classList.remove("inspected");
    this.span = span;
    span?.classList.add("inspected");
  }

  facts(token) {
    const facts = [["id", String(token.id)]];
    if (token.logprob === undefined) return facts;
    facts.unshift(["probability", percent(probability(token))]);
    facts.push(["surprise", `${bits(-token.logprob).toFixed(2)} bits`], ["entropy", `${bits(token.entropy).toFixed(2)} bits`]);
    const rank = token.top.findIndex((other) => other.id === token.id);
    facts.push(["rank", rank >= 0 ? String(rank + 1) : `> ${token.top.length}`]);
    facts.push(["chosen by", token.chosen ? "you" : "the draw"]);
    return facts;
  }

  /** Ask for the attention of the position that chose the token, which is the position before it. */
  async look(ids) {
    this.request?.abort();
    this.request = new AbortController();
    $("heads").replaceChildren();
    $("attention-text").replaceChildren();
    const status = $("attention-status");
    const most = this.model().limits.max_attention_tokens;
    const first = Math.max(0, ids.length - most);
    status.textContent = ids.length > 500 ? `Looking at ${Math.min(ids.length, most).toLocaleString()} tokens …` : "Looking …";
    $("attention-left-out").hidden = true;
    $("attention-cut").hidden = !first;
    $("attention-cut").textContent = `The text is long. This is where the model would look if it had only the last ${most} tokens.`;
    try {
      this.draw(await ask("/attention", { model: this.model().id, tokens: ids.slice(first) }, this.request.signal));
    } catch (error) {
      if (error.name !== "AbortError") status.textContent = error.message;
    }
  }

  /** @param answer of the server: of a long text, it has the largest weights of each head with their places */
  draw({ tokens, mean, weights, places, left_out: leftOut }) {
    const whole = (layer, head) => {
      const row = weights[layer][head];
      if (!places) return row;
      const all = new Array(tokens.length).fill(0);
      places[layer][head].forEach((place, order) => (all[place] = row[order]));
      return all;
    };
    const spans = tokens.map((text) => element("span", text.startsWith("<|") ? { className: "special" } : {}, text.startsWith("<|") || text.startsWith("bytes:") ? visible(text) : text));
    $("attention-text").replaceChildren(...spans);
    const paint = (row, missing, chosen, name) => {
      $("attention-left-out").hidden = missing < 0.0005;
      $("attention-left-out").textContent = `${percent(missing)} of this head's weight is spread over tokens that are not coloured here; all heads together are shown in full.`;
      // The square root makes small weights visible and keeps the order.
      spans.forEach((span, place) => {
        span.style.setProperty("--w", Math.sqrt(row[place]).toFixed(3));
        span.title = percent(row[place]);
      });
      for (const button of $("heads").querySelectorAll("button")) {
        button.setAttribute("aria-checked", String(button === chosen));
        button.tabIndex = button === chosen ? 0 : -1;
      }
      const best = row.indexOf(Math.max(...row));
      // Only the text scrolls, not the page: the head that was pointed at stays where it is.
      const area = $("attention-text");
      area.scrollTop = spans[best].offsetTop - area.clientHeight / 2; // the area is what the places are counted from
      $("attention-status").textContent = `${name}: most of all at “${visible(tokens[best])}” (${percent(row[best]).replace(" ", "\u00a0")})`;
    };
    const radio = (row, rowOf, missing, label, properties, ...content) => {
      const button = element("button", { type: "button", role: "radio", title: label, "aria-label": label, "--w": Math.max(...row).toFixed(3), ...properties }, ...content);
      button.onclick = () => paint(rowOf(), missing, button, label);
      return button;
    };
    const heads = weights[0].length;
    const all = radio(mean, () => mean, 0, "All heads", { className: "all" }, "all heads, averaged");
    const rows = weights.map((layer, number) =>
      element(
        "div",
        { className: "layer", "--heads": heads },
        element("span", {}, `L${number + 1}`),
        ...layer.map((row, head) => radio(row, () => whole(number, head), leftOut[number][head], `Layer ${number + 1}, head ${head + 1}`, {})),
      ),
    );
    $("heads").classList.toggle("many", rows.length > 12);
    $("heads").replaceChildren(element("div", { className: "layer", "--heads": heads }, all), ...rows);
    all.click();
  }

  move(event) {
    const buttons = [...$("heads").querySelectorAll("button")];
    const heads = Number(getComputedStyle($("heads").firstElementChild).getPropertyValue("--heads"));
    const at = buttons.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: at === 0 ? 1 : heads, ArrowUp: -heads };
    if (at < 0 || !(event.key in steps)) return;
    event.preventDefault();
    const next = buttons[Math.max(0, Math.min(buttons.length - 1, at + steps[event.key]))];
    next.focus();
    next.click();
  }
}
