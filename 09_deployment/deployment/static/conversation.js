/** The conversation as a tree. Editing, regenerating and branching add a sibling, so no message is ever lost. */

const SAVED = "nullm-conversation";

/** A message, and the messages that come after it. */
class Node {
  constructor(role, text = "") {
    this.id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    this.role = role;
    this.text = text; // of a user's message; an answer has tokens
    this.tokens = []; // {id, text, logprob, entropy, top: [{id, text, logprob}], chosen}
    this.promptIds = [];
    this.state = "done"; // streaming, done, stopped, failed
    this.problem = null;
    this.stats = null;
    this.children = [];
    this.active = 0;
  }

  get content() {
    return this.role === "user" ? this.text : this.tokens.map((token) => token.text).join("") + (this.stats?.text ?? "");
  }
}

export class Conversation {
  constructor() {
    this.mode = "chat";
    this.clear();
  }

  clear() {
    this.root = new Node("root");
    this.parents = new Map();
  }

  /** Add a message after another one, as the version that is shown. */
  add(parent, role, text) {
    const node = new Node(role, text);
    parent.children.push(node);
    parent.active = parent.children.length - 1;
    this.parents.set(node, parent);
    return node;
  }

  parent(node) {
    return this.parents.get(node);
  }

  /** The messages that are shown, from the first. */
  path() {
    const path = [];
    for (let node = this.root; node.children.length; path.push(node)) node = node.children[node.active];
    return path;
  }

  get last() {
    return this.path().at(-1) ?? this.root;
  }

  /** Show another version of a message: step is -1 or 1. */
  turn(node, step) {
    const parent = this.parent(node);
    parent.active = (parent.active + step + parent.children.length) % parent.children.length;
  }

  /** The messages for the server, up to and including a user's message. */
  messagesUpTo(node, system) {
    const messages = [];
    for (let at = node; at !== this.root; at = this.parent(at)) messages.unshift({ role: at.role, content: at.content });
    return system.trim() ? [{ role: "system", content: system }, ...messages] : messages;
  }

  toJSON() {
    return { mode: this.mode, root: this.root };
  }

  /** Keep the conversation for a reload of this tab. */
  save() {
    try {
      sessionStorage.setItem(SAVED, JSON.stringify(this));
    } catch {
      sessionStorage.removeItem(SAVED); // it has outgrown the browser's limit
    }
  }

  restore() {
    let saved;
    try {
      saved = JSON.parse(sessionStorage.getItem(SAVED));
    } catch {
      return;
    }
    if (!saved?.root?.children) return;
    const revive = (plain, parent) => {
      const node = Object.assign(new Node(plain.role), plain);
      if (node.state === "streaming") node.state = "stopped";
      if (parent) this.parents.set(node, parent);
      node.children = plain.children.map((child) => revive(child, node));
      return node;
    };
    this.mode = saved.mode;
    this.root = revive(saved.root, null);
  }

  toMarkdown(modelName) {
    const names = { user: "You", assistant: modelName };
    if (this.mode === "complete") return this.path().map((node) => node.content + (node.role === "assistant" ? "\n\n---\n\n" : "")).join("");
    return this.path().map((node) => `**${names[node.role]}:**\n\n${node.content}\n`).join("\n");
  }
}
