/** Filling an answer with tokens from the server: one answer at a time, and the user can stop it. */

import { generate } from "./api.js";
import { $, announce } from "./dom.js";

export class Generator {
  /** @param onProblem called with an error; returns whether it has handled it */
  constructor(transcript, conversation, settings, model, onProblem) {
    Object.assign(this, { transcript, conversation, settings, model, onProblem, request: null });
    $("stop").onclick = () => this.stop();
  }

  get busy() {
    return this.request !== null;
  }

  stop() {
    this.request?.abort();
  }

  /** @param start where the answer begins: {messages} or {prompt}. The tokens that `node` already has stay. */
  async fill(node, start) {
    this.stop();
    const request = (this.request = new AbortController());
    const model = this.model();
    const sampling = this.settings.sampling();
    sampling.max_tokens = Math.min(sampling.max_tokens, model.limits.max_tokens);
    const body = { model: model.id, ...start, ...sampling, top_logprobs: Math.min(8, model.limits.max_logprobs) };
    Object.assign(node, { state: "streaming", problem: null, stats: {} });
    this.toggle(true);
    this.transcript.draw();
    const before = node.tokens.length;
    let began = 0;
    let frame = 0;
    try {
      for await (const { name, data } of generate(body, request.signal)) {
        if (name === "start" && !node.promptIds.length) node.promptIds = data.prompt_ids;
        if (name === "token") {
          node.tokens.push(data);
          began ||= performance.now();
          const seconds = (performance.now() - began) / 1000;
          if (seconds > 0.2) node.stats.speed = (node.tokens.length - before - 1) / seconds;
        }
        if (name === "end") {
          node.stats = { ...data, speed: node.stats.speed };
          const seconds = data.total_seconds - data.first_token_seconds;
          if (data.generated_tokens > 1 && seconds > 0) node.stats.speed = (data.generated_tokens - 1) / seconds;
        }
        // The page is drawn once in each frame, for any number of tokens.
        frame ||= requestAnimationFrame(() => {
          frame = 0;
          this.transcript.refresh(node);
        });
      }
      node.state = "done";
      announce(node.content);
    } catch (error) {
      node.state = error.name === "AbortError" ? "stopped" : "failed";
      if (node.state === "failed") node.problem = error.message;
      this.onProblem(error);
    } finally {
      cancelAnimationFrame(frame);
      if (this.request === request) {
        this.request = null;
        this.toggle(false);
      }
      this.transcript.refresh(node);
      this.conversation.save();
    }
  }

  /** The ids to continue from. If they fill the context, only its newer half stays, as in the engine itself. */
  window(ids) {
    const most = this.model().max_model_len;
    return ids.length < most ? ids : ids.slice(-Math.floor(most / 2));
  }

  toggle(busy) {
    $("send").hidden = busy;
    $("stop").hidden = !busy;
  }
}
