/** Which tokens of an answer are code or bold. Tokens stay tokens: each gets a class, and its text does not change. */

/** Reads an answer token by token, and says how each is shown. It marks what Markdown calls code and bold, no more. */
export class Markup {
  constructor() {
    this.line = ""; // the text since the last line break
    this.fenced = false;
    this.inline = false;
    this.bold = false;
  }

  /** The class of the next token: "block" inside a fence, "code", "bold" or "". */
  next(text) {
    const began = { ...this };
    for (const character of text) {
      if (character === "\n") {
        this.endLine();
        continue;
      }
      this.line += character;
      if (this.fenced || this.line.trimStart().startsWith("```")) continue;
      if (character === "`") this.inline = !this.inline;
      else if (!this.inline && this.line.endsWith("**")) {
        this.bold = !this.bold;
        this.line = `${this.line.slice(0, -2)}  `; // three stars in a row end it once
      }
    }
    if (began.fenced || this.fenced || this.line.trimStart().startsWith("```")) return "block";
    if (began.inline || this.inline || text.includes("`")) return "code";
    return began.bold || this.bold ? "bold" : "";
  }

  /** A fence ends with its line; code and bold in a line end with it too. */
  endLine() {
    if (this.line.trimStart().startsWith("```")) this.fenced = !this.fenced;
    this.line = "";
    this.inline = this.bold = false;
  }
}
