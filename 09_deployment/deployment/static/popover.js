/** Point at a token to see the other tokens that the model considered. Choosing one makes a branch. */

import { $, announce, element } from "./dom.js";
import { percent, probability, visible } from "./probability.js";
import { describe } from "./transcript.js";

const OPENS_AFTER = 90; // ms, so that a pointer that only passes opens nothing
const CLOSES_AFTER = 220; // ms, the time to reach the list
// If there is no room beside the text, the inspector slides over the text and has the same list.
const narrow = matchMedia("(max-width: 68rem)");

/** The list of alternatives of a token; a click on one calls `branch(alternative)`. */
export function alternativesOf(token, branch) {
  const shown = token.top ?? [];
  const all = shown.some((other) => other.id === token.id) || token.logprob === undefined ? shown : [...shown, token];
  return all.map((other) => {
    const p = Math.exp(other.logprob);
    const label = [element("i", { "--p": p.toFixed(4) }), element("b", {}, visible(other.text) || "·"), element("em", {}, percent(p))];
    if (other.id === token.id) return element("li", {}, element("div", { className: "it", title: "the token in the text" }, ...label));
    const part = other.text.startsWith("bytes:");
    const title = part ? "a part of a character: the text cannot be shown from here" : "continue from here with this token";
    return element("li", {}, element("button", { type: "button", disabled: part, title, onclick: () => branch(other) }, ...label));
  });
}

export class Popover {
  /** @param branch called with a node, a token's index and an alternative; @param inspect with a node and an index */
  constructor(area, branch, inspect) {
    Object.assign(this, { branch, inspect, box: $("popover"), timer: 0, span: null });
    const later = (delay, action) => {
      clearTimeout(this.timer);
      this.timer = setTimeout(action, delay);
    };
    area.addEventListener("pointerover", (event) => {
      const span = event.target.closest?.(".token");
      if (span && event.pointerType === "mouse") later(OPENS_AFTER, () => this.open(span));
    });
    area.addEventListener("pointerout", () => later(CLOSES_AFTER, () => this.close()));
    this.box.addEventListener("pointerenter", () => clearTimeout(this.timer));
    this.box.addEventListener("pointerleave", () => later(CLOSES_AFTER, () => this.close()));
    area.addEventListener("focusin", (event) => {
      const span = event.target.closest?.(".token");
      if (span && span.matches(":focus-visible")) this.open(span, true);
    });
    area.addEventListener("click", (event) => {
      const span = event.target.closest?.(".token");
      if (!span) return;
      if (narrow.matches) this.close();
      else this.open(span);
      this.inspect(span.place.node, span.place.index);
    });
    area.addEventListener("keydown", (event) => this.move(event));
    this.box.addEventListener("keydown", (event) => this.moveInside(event));
    $("transcript").addEventListener("scroll", () => this.close());
    document.addEventListener("pointerdown", (event) => {
      if (!this.box.contains(event.target) && !event.target.closest?.(".token")) this.close();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  open(span, spoken = false) {
    clearTimeout(this.timer);
    const { node, index } = span.place;
    const token = node.tokens[index];
    this.span = span;
    $("popover-head").textContent = describe(token);
    $("popover-list").replaceChildren(
      ...alternativesOf(token, (other) => {
        this.close();
        this.branch(node, index, other);
      }),
    );
    this.box.hidden = false;
    const at = span.getClientRects()[0] ?? span.getBoundingClientRect();
    const { width, height } = this.box.getBoundingClientRect();
    const below = at.bottom + 6 + height < innerHeight;
    this.box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
    this.box.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - height - 6)}px`;
    if (spoken) announce(`${visible(token.text)}: ${describe(token)}. ${(token.top ?? []).slice(0, 3).map((other) => `${visible(other.text)} ${percent(probability(other))}`).join(", ")}`);
  }

  close() {
    clearTimeout(this.timer);
    const inside = this.box.contains(document.activeElement);
    this.box.hidden = true;
    if (inside) this.span?.focus();
  }

  /** The arrow keys go from token to token, and Enter goes to the alternatives. */
  move(event) {
    const span = event.target.closest?.(".token");
    if (!span) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 8, ArrowUp: -8, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      event.preventDefault();
      const all = [...span.closest(".text").querySelectorAll(".token")];
      const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(span) + steps[event.key]))];
      span.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.open(span);
      this.inspect(span.place.node, span.place.index);
      this.box.querySelector("button:enabled")?.focus();
    }
  }

  moveInside(event) {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    const buttons = [...this.box.querySelectorAll("button:enabled")];
    const at = buttons.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    buttons[(at + buttons.length) % buttons.length]?.focus();
  }
}
