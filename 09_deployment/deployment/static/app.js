/** The page: what the buttons do. */

import { ServerError, ask, setKey } from "./api.js";
import { Conversation } from "./conversation.js";
import { Cuts } from "./cuts.js";
import { $, announce, element } from "./dom.js";
import { Generator } from "./generator.js";
import { Inspector } from "./inspector.js";
import { Popover } from "./popover.js";
import { Settings } from "./settings.js";
import { Transcript } from "./transcript.js";

// Things to try: with a model that has read Python's documentation, and with any other.
const STARTERS = {
  python: {
    chat: ["What does str.split do?", "How do I sort a list in reverse?", "What is a generator?"],
    complete: ["Return the number of", "collections.deque.rotate(self, n=1)\n\n", "If the list is empty,"],
  },
  general: {
    chat: ["Why is the sky blue? Answer in two sentences.", "Write a short poem about the sea.", "Give me three ideas for dinner with rice."],
    complete: ["Once upon a time,", "The capital of France is", "The three most important things in life are"],
  },
};

let models = [];
const settings = new Settings();
const conversation = new Conversation();
const model = () => models.find((one) => one.id === $("model").value) ?? models[0];
const actions = {
  edit: (node, text) => say(conversation.parent(node), text),
  regenerate: (node) => answer(conversation.parent(node)),
  proceed: (node) => generator.fill(node, { prompt: generator.window([...node.promptIds, ...node.tokens.map((token) => token.id)]) }),
  turn: (node, step) => {
    conversation.turn(node, step);
    inspector.close();
    transcript.draw();
    conversation.save();
  },
  copy: async (node) => {
    await navigator.clipboard?.writeText(node.content);
    announce("Copied");
  },
  scrolled: (atEnd) => ($("newest").hidden = atEnd || !conversation.path().length),
};
const transcript = new Transcript($("messages"), $("transcript"), conversation, actions);
const generator = new Generator(transcript, conversation, settings, model, (error) => error.status === 401 && askForKey());
const inspector = new Inspector(transcript, branch, model);
new Popover($("messages"), branch, (node, index) => inspector.show(node, index));
const cuts = new Cuts($("message"), () => model()?.id);

/** Add a user's message after another message, and let the model answer. */
function say(parent, text) {
  answer(conversation.add(parent, "user", text));
}

function answer(user) {
  const node = conversation.add(user, "assistant");
  $("welcome").hidden = true;
  transcript.stuck = true;
  inspector.close();
  const start = conversation.mode === "chat" ? { messages: conversation.messagesUpTo(user, $("system").value) } : { prompt: user.text };
  generator.fill(node, start);
}

/** Continue from another token. The new version of the answer shares the tokens before it. */
function branch(node, index, other) {
  const made = conversation.add(conversation.parent(node), "assistant");
  made.promptIds = node.promptIds;
  const text = other.text.startsWith("bytes:") ? "�" : other.text;
  const { entropy, top } = node.tokens[index];
  made.tokens = [...node.tokens.slice(0, index), { id: other.id, text, logprob: other.logprob, entropy, top, chosen: true }];
  inspector.close();
  transcript.stuck = true;
  announce(`Branching with ${other.text}`);
  generator.fill(made, { prompt: generator.window([...made.promptIds, ...made.tokens.map((token) => token.id)]) });
}

// --- the composer --------------------------------------------------------------------------------

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value;
  if (!text.trim() || generator.busy || !models.length) return;
  $("message").value = "";
  grow();
  cuts.update();
  // A completion starts again from the beginning. The old text stays as another version of the first message.
  say(conversation.mode === "chat" ? conversation.last : conversation.root, text);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("message").addEventListener("input", grow);
$("newest").onclick = () => {
  transcript.stuck = true;
  transcript.follow();
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && generator.busy && $("popover").hidden && !document.querySelector("dialog[open]")) generator.stop();
});

function grow() {
  const area = $("message");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

// --- modes, models, dialogs ----------------------------------------------------------------------

function setMode(mode) {
  conversation.mode = mode;
  for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === mode;
  const chat = mode === "chat";
  $("message").placeholder = chat ? "Ask something" : "Begin a text";
  $("message-label").textContent = $("message").placeholder;
  $("send").textContent = chat ? "Send" : "Continue";
  $("system-field").hidden = !chat;
  $("starters").replaceChildren(
    ...STARTERS[model()?.subject ?? "general"][mode].map((text) => element("li", {}, element("button", { type: "button", onclick: () => say(conversation.root, text) }, text.trim()))),
  );
}

function startAnew(mode = conversation.mode) {
  generator.stop();
  conversation.clear();
  setMode(mode);
  conversation.save();
  inspector.close();
  transcript.draw();
  $("newest").hidden = true;
  $("welcome").hidden = false;
  $("message").focus();
}

for (const radio of document.getElementsByName("mode")) radio.onchange = () => startAnew(radio.value);
$("new").onclick = () => startAnew();
$("open-settings").onclick = () => $("settings").showModal();
$("export").onclick = () => $("export-dialog").showModal();
$("export-dialog").addEventListener("close", (event) => {
  const kind = event.target.returnValue;
  if (kind) save(kind === "md" ? conversation.toMarkdown(model()?.id ?? "The model") : JSON.stringify({ model: model(), ...conversation.toJSON() }, null, 1), kind);
  event.target.returnValue = "";
});
$("change-key").onclick = () => askForKey();
$("key-cancel").onclick = () => $("key-dialog").close();
$("key-form").addEventListener("submit", () => {
  setKey($("key").value.trim());
  $("key").value = "";
  if (!models.length) load();
});
$("model").onchange = () => showModel();

function save(text, kind) {
  const url = URL.createObjectURL(new Blob([text], { type: kind === "md" ? "text/markdown" : "application/json" }));
  const link = element("a", { href: url, download: `conversation.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function askForKey() {
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function showModel() {
  const { id, parameters, max_model_len, chat } = model();
  const size = parameters >= 1e6 ? `${(parameters / 1e6).toFixed(1)} M` : parameters.toLocaleString();
  $("model-line").textContent = `${id} · ${size} parameters · context ${max_model_len.toLocaleString("en")}`;
  document.title = `${id} · nuLLM`;
  settings.suit(model());
  setMode(conversation.mode); // the examples are those of this model
  for (const radio of document.getElementsByName("mode")) {
    if (radio.value !== "chat") continue;
    radio.disabled = !chat;
    radio.parentElement.title = chat ? "" : "This model was not taught to chat; it continues texts. Stage 6 teaches it.";
  }
  if (!chat && conversation.mode === "chat") startAnew("complete");
}

/** Ask the server what it serves, and begin. */
async function load() {
  $("load-problem")?.remove();
  try {
    models = (await ask("/v1/models")).data;
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    if (error.status === 401) return askForKey();
    const again = element("button", { type: "button", onclick: load }, "Try again");
    $("welcome").append(element("p", { id: "load-problem", className: "problem", role: "alert" }, `${error.message} `, again));
    return;
  }
  $("model").replaceChildren(...models.map(({ id }) => element("option", { value: id }, id)));
  $("model-choice").hidden = models.length < 2;
  showModel();
}

conversation.restore();
setMode(conversation.mode);
$("welcome").hidden = conversation.path().length > 0;
transcript.draw();
load().then(() => $("message").focus());
