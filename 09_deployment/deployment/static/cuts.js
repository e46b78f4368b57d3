/** The tokens of the text in the message box, while the user types. */

import { ask } from "./api.js";
import { $, element } from "./dom.js";
import { visible } from "./probability.js";

const PAUSE = 120; // ms without typing before the page asks the server
const MOST = 400; // tokens that are shown; the count includes all of them

export class Cuts {
  constructor(area, modelName) {
    let timer = 0;
    let request = null;
    const update = async () => {
      request?.abort();
      if (!area.value || !$("show-cuts").checked) return this.draw(null);
      request = new AbortController();
      try {
        this.draw(await ask("/tokenize", { model: modelName(), prompt: area.value, add_special_tokens: false }, request.signal));
      } catch (error) {
        if (error.name !== "AbortError") this.draw(null);
      }
    };
    this.update = () => {
      clearTimeout(timer);
      timer = setTimeout(update, PAUSE);
    };
    area.addEventListener("input", this.update);
    $("show-cuts").addEventListener("change", this.update);
  }

  draw(answer) {
    const texts = answer?.token_strs ?? [];
    $("cuts").replaceChildren(...texts.slice(0, MOST).map((text, place) => element("span", { title: `id ${answer.tokens[place]}` }, visible(text))));
    $("cuts-count").textContent = answer ? `${answer.count} token${answer.count === 1 ? "" : "s"}` : "";
  }
}
