/** The messages on the page: tokens when they arrive, versions, tools, problems. */

import { element, sparkline } from "./dom.js";
import { Markup } from "./markup.js";
import { bits, percent, probability, summary, surprise } from "./probability.js";

export class Transcript {
  /** @param actions the functions that the tools of a message call: edit, regenerate, proceed, turn, copy */
  constructor(list, scroller, conversation, actions) {
    Object.assign(this, { list, scroller, conversation, actions });
    this.items = new Map(); // node → its parts on the page
    this.stuck = true; // the page follows the end
    scroller.addEventListener("scroll", () => {
      this.stuck = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
      this.actions.scrolled(this.stuck);
    });
  }

  /** Show the path of the conversation, and keep what is already on the page. */
  draw() {
    const path = this.conversation.path();
    const kept = new Set(path);
    for (const [node, item] of this.items) {
      if (!kept.has(node)) {
        item.li.remove();
        this.items.delete(node);
      }
    }
    for (const node of path) {
      const item = this.items.get(node) ?? this.make(node);
      this.list.append(item.li);
      this.refresh(node);
    }
    this.list.classList.toggle("complete", this.conversation.mode === "complete");
    this.follow();
  }

  make(node) {
    const text = element("div", { className: "text", dir: "auto" }); // other scripts run from right to left
    const tools = element("div", { className: "tools" });
    const who = node.role === "user" ? "You" : "The model";
    const li = element("li", { className: node.role }, element("span", { className: "hidden" }, `${who}: `), text, tools);
    const item = { li, text, tools, shown: 0, markup: new Markup(), block: null };
    this.items.set(node, item);
    if (node.role === "assistant") {
      text.setAttribute("role", "group");
      text.setAttribute("aria-label", "Answer; the arrow keys go from token to token, and Enter inspects");
    } else {
      text.textContent = node.text;
    }
    return item;
  }

  /** Bring one message up to date. */
  refresh(node) {
    const item = this.items.get(node);
    if (!item) return;
    if (node.role === "assistant") this.drawTokens(node, item);
    item.tools.replaceChildren(...(node.role === "user" ? this.userTools(node) : this.answerTools(node)));
    item.problem?.remove();
    if (node.problem) {
      item.problem = element("div", { className: "problem", role: "alert" }, node.problem);
      item.tools.before(item.problem);
    }
    this.follow();
  }

  drawTokens(node, item) {
    item.caret?.remove();
    item.rest?.remove();
    for (; item.shown < node.tokens.length; item.shown++) {
      const kind = item.markup.next(node.tokens[item.shown].text);
      if (kind !== "block") item.block = null;
      else if (!item.block) item.text.append((item.block = element("span", { className: "code-block", dir: "ltr" })));
      (item.block ?? item.text).append(this.token(node, item.shown, kind));
    }
    item.rest = element("span", {}, node.stats?.text ?? "");
    item.text.append(item.rest);
    item.text.setAttribute("aria-busy", String(node.state === "streaming"));
    if (node.state === "streaming") {
      item.caret = element("span", { className: "caret" });
      item.text.append(item.caret);
    }
  }

  token(node, index, kind) {
    const token = node.tokens[index];
    const classes = ["token"];
    if (kind) classes.push(kind);
    if (token.chosen) classes.push("chosen");
    if (!token.text) classes.push("part");
    if (/^[\r\n]+$/.test(token.text)) classes.push("line"); // otherwise there would be nothing to point at
    const span = element("span", { className: classes.join(" "), tabIndex: index ? -1 : 0, "--t": surprise(token).toFixed(3) }, token.text || "·");
    span.place = { node, index };
    return span;
  }

  /** The element of a token. */
  spanOf(node, index) {
    return this.items.get(node)?.text.querySelectorAll(".token")[index];
  }

  userTools(node) {
    return [this.button("Edit", () => this.edit(node)), this.versions(node)];
  }

  answerTools(node) {
    const tools = [];
    if (node.state !== "streaming") {
      tools.push(this.button("Copy", () => this.actions.copy(node)));
      tools.push(this.button(node.state === "failed" ? "Try again" : "Regenerate", () => this.actions.regenerate(node)));
      if (node.tokens.length) tools.push(this.button("Continue", () => this.actions.proceed(node)));
    }
    tools.push(this.versions(node));
    const line = summary(node);
    if (line) {
      const values = node.tokens.filter((token) => token.entropy !== undefined).map((token) => Math.min(1, bits(token.entropy) / 8));
      tools.push(element("span", { className: "stats" }, line, sparkline(values)));
    }
    return tools;
  }

  versions(node) {
    const siblings = this.conversation.parent(node).children;
    if (siblings.length < 2) return "";
    const number = siblings.indexOf(node) + 1;
    const step = (by, sign, label) => {
      const button = this.button(sign, () => this.actions.turn(node, by));
      button.setAttribute("aria-label", label);
      return button;
    };
    return element("span", { className: "versions" }, step(-1, "‹", "Previous version"), `${number} / ${siblings.length}`, step(1, "›", "Next version"));
  }

  button(text, onclick) {
    return element("button", { type: "button", className: "quiet", onclick }, text);
  }

  edit(node) {
    const item = this.items.get(node);
    const area = element("textarea", { value: node.text, dir: "auto", "aria-label": "Edit the message" });
    const close = () => {
      form.remove();
      item.text.hidden = item.tools.hidden = false;
    };
    const save = () => {
      close();
      if (area.value.trim() && area.value !== node.text) this.actions.edit(node, area.value);
    };
    const form = element("div", { className: "edit" }, area, element("div", { className: "row" }, this.button("Cancel", close), this.button("Send", save)));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        save();
      }
    });
    item.text.hidden = item.tools.hidden = true;
    item.li.append(form);
    area.focus();
  }

  follow() {
    if (this.stuck) this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}

/** The probability of a token, in words. */
export function describe(token) {
  if (token.logprob === undefined) return "No probability, because it was not requested.";
  return `${percent(probability(token))} likely, entropy ${bits(token.entropy).toFixed(1)} bits`;
}
