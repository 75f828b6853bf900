// Markdown into elements. Text only ever becomes text nodes, so that no answer can bring markup or scripts of its own.

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*([^*\s](?:[^*]*[^*\s])?)\*\*|\*([^*\s](?:[^*]*[^*\s])?)\*|\[([^\]\n]+)\]\(([^()\s]+)\)/;

function element(name, children = [], attributes = {}) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function inline(text) {
  const nodes = [];
  while (text) {
    const found = INLINE.exec(text);
    if (!found) break;
    if (found.index > 0) nodes.push(text.slice(0, found.index));
    const [whole, , code, strong, emphasis, label, address] = found;
    if (code !== undefined) nodes.push(element("code", [code]));
    else if (strong !== undefined) nodes.push(element("strong", inline(strong)));
    else if (emphasis !== undefined) nodes.push(element("em", inline(emphasis)));
    else if (/^https?:\/\//.test(address)) {
      nodes.push(element("a", [label], { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }));
    } else nodes.push(whole);
    text = text.slice(found.index + whole.length);
  }
  if (text) nodes.push(text);
  return nodes;
}

// What a line begins; a list's kind decides whether the next line belongs to it.
function kind(line) {
  if (/^\s*(```|~~~)/.test(line)) return "fence";
  if (/^#{1,6}\s/.test(line)) return "heading";
  if (/^\s*([-*+])\s+/.test(line)) return "ul";
  if (/^\s*\d{1,9}[.)]\s+/.test(line)) return "ol";
  if (/^\s*>/.test(line)) return "quote";
  if (/^\s*\|.*\|\s*$/.test(line)) return "table";
  return line.trim() ? "text" : "blank";
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, name) => element("tr", cells(line).map((cell) => element(name, inline(cell))));
  const ruled = lines.length > 1 && cells(lines[1]).every((cell) => /^:?-+:?$/.test(cell));
  const head = ruled ? [element("thead", [row(lines[0], "th")])] : [];
  const body = element("tbody", lines.slice(ruled ? 2 : 0).map((line) => row(line, "td")));
  return element("table", [...head, body]);
}

function blocks(lines, depth) {
  const out = [];
  for (let i = 0; i < lines.length; ) {
    const what = kind(lines[i]);
    let end = i + 1;
    if (what === "fence") {
      const fence = lines[i].trim().slice(0, 3);
      while (end < lines.length && !lines[end].trim().startsWith(fence)) end++;
      const code = element("code", [lines.slice(i + 1, end).join("\n")]);
      out.push(element("pre", [code], { tabindex: "0" }));
      i = end + 1;
      continue;
    }
    if (what === "heading") {
      out.push(element("h3", inline(lines[i].replace(/^#+\s*/, ""))));
    } else if (what === "ul" || what === "ol") {
      const belongs = (line) => kind(line) === what || (kind(line) !== "blank" && /^\s{2,}/.test(line));
      while (end < lines.length && belongs(lines[end])) end++;
      out.push(list(lines.slice(i, end), what, depth));
    } else if (what === "quote") {
      while (end < lines.length && kind(lines[end]) === "quote") end++;
      const inner = lines.slice(i, end).map((line) => line.replace(/^\s*>\s?/, ""));
      out.push(element("blockquote", depth > 0 ? blocks(inner, depth - 1) : inner));
    } else if (what === "table") {
      while (end < lines.length && kind(lines[end]) === "table") end++;
      out.push(table(lines.slice(i, end)));
    } else if (what === "text") {
      while (end < lines.length && kind(lines[end]) === "text") end++;
      const parts = lines.slice(i, end).flatMap((line, n) => (n ? [element("br")] : []).concat(inline(line)));
      out.push(element("p", parts));
    }
    i = end;
  }
  return out;
}

function list(lines, what, depth) {
  const margin = /^\s*/.exec(lines[0])[0].length;
  const items = [];
  for (const line of lines) {
    const own = kind(line) === what && /^\s*/.exec(line)[0].length <= margin + 1;
    if (own || items.length === 0) items.push([line.replace(/^\s*(?:[-*+]|\d+[.)])\s+/, "")]);
    else items[items.length - 1].push(line.slice(Math.min(margin + 2, /^\s*/.exec(line)[0].length)));
  }
  const item = ([first, ...rest]) =>
    element("li", inline(first).concat(rest.length && depth > 0 ? blocks(rest, depth - 1) : rest.map((line) => `\n${line}`)));
  const start = what === "ol" ? { start: /\d+/.exec(lines[0])[0] } : {};
  return element(what, items.map(item), start);
}

window.renderMarkdown = (text) => blocks(text.split("\n"), 6);
