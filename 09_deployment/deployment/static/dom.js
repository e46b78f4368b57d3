/** Building the page from data. Text stays text: what a model or a user writes is never read as HTML. */

export const $ = (id) => document.getElementById(id);

/** Make an element from properties and children. Strings become text nodes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("--")) made.style.setProperty(key, value);
    else if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** Small bars, one for each number between 0 and 1. Only the newest are drawn, at most `most`. */
export function sparkline(values, most = 60) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${most} 12`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  values.slice(-most).forEach((value, place) => {
    const bar = document.createElementNS(svg.namespaceURI, "rect");
    const height = Math.max(0.4, 12 * value);
    for (const [key, number] of Object.entries({ x: place, y: 12 - height, width: 0.8, height })) bar.setAttribute(key, number);
    svg.append(bar);
  });
  return svg;
}

/** Tell it to screen readers. */
export function announce(text) {
  $("announcer").textContent = text;
}
