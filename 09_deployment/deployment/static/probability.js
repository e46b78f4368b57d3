/** Numbers for people: probabilities, bits, and the colour that shows them. */

export const probability = (token) => Math.exp(token.logprob);
export const bits = (nats) => nats / Math.LN2;

/** 0 for an expected token, 1 for a surprise of 10 bits, which is one chance in a thousand. */
export function surprise(token) {
  return token.logprob === undefined ? 0 : Math.min(1, Math.max(0, bits(-token.logprob) / 10));
}

export function percent(p) {
  if (p > 0.9995) return "100 %";
  if (p >= 0.1) return `${(100 * p).toFixed(0)} %`;
  if (p >= 0.001) return `${(100 * p).toFixed(1)} %`;
  return p > 0 ? "< 0.1 %" : "0 %";
}

/** The text of a token, with signs for the characters that cannot be seen. */
export function visible(text) {
  if (text.startsWith("bytes:")) return text.slice(6).replace(/\\x(..)/g, "⟨$1⟩");
  return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `⟨${c.codePointAt(0).toString(16)}⟩`);
}

/** Tokens per second, mean entropy and perplexity of an answer, in one line. */
export function summary(node) {
  const measured = node.tokens.filter((token) => token.logprob !== undefined);
  if (!measured.length) return "";
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const parts = [`${node.tokens.length} token${node.tokens.length === 1 ? "" : "s"}`];
  const speed = node.stats?.speed;
  if (speed) parts.push(`${speed.toFixed(speed < 10 ? 1 : 0)} tok/s`);
  parts.push(`entropy ${bits(mean(measured.map((token) => token.entropy))).toFixed(1)} bits`);
  parts.push(`perplexity ${Math.exp(mean(measured.map((token) => -token.logprob))).toFixed(1)}`);
  if (node.stats?.context_shifts) parts.push("the context was full, and its older half was dropped");
  return parts.join(" · ");
}
