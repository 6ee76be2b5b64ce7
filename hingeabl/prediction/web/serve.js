"use strict";
// The page of scripts/serve.py. It sends a text or a file to /api/predict and shows the answer,
//   {documents: [{title, sents, vertexSet, predictions: [{h_idx, t_idx, r, relation, score, threshold, margin, confidence, evidence}]}], warnings}.
// What a document or the server says reaches the page as textContent only.
const MOST_ROWS = 500; // of the table
const MOST_EDGES = 80; // of the graph
const KNOWN_TYPES = ["PER", "ORG", "LOC", "TIME", "NUM", "MISC"]; // their colours are always the same
const MEANINGS = { PER: "person", ORG: "organisation", LOC: "place", TIME: "time", NUM: "number", MISC: "other name" };
const COLOURS = 10;
const EXAMPLE = "Marie Curie was born in Warsaw, the capital of Poland, in 1867. She married Pierre Curie in Paris in 1895. "
  + "Together they discovered polonium, which she named after Poland. Curie taught at the University of Paris, and she founded "
  + "the Radium Institute there. Her daughter Irène was born in Paris in 1897 and won the Nobel Prize in 1935.";
const byId = (id) => document.getElementById(id);
const about = JSON.parse(document.querySelector("script[data-about]").textContent);
const state = { file: null, sent: null, answer: null, shown: 0, request: null };

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function drawn(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Asking

function chooseFile(file) {
  state.file = file;
  byId("chosen").hidden = !file;
  byId("filename").textContent = file ? `${file.name} (${file.size.toLocaleString("en")} bytes)` : "";
  byId("text").disabled = Boolean(file);
  byId("file").value = "";
}

function tell(message) {
  byId("error").textContent = message;
  byId("error").hidden = !message;
}

// The response to a body, null where there is none, which is told.
async function post(body, query) {
  const size = body instanceof Blob ? body.size : new Blob([body]).size;
  if (size > about.maxBytes) {
    tell(`This has ${size.toLocaleString("en")} bytes, and the limit is ${about.maxBytes.toLocaleString("en")}; split it.`);
    return null;
  }
  tell("");
  state.request = new AbortController();
  setBusy(true);
  try {
    const response = await fetch(`/api/predict${query}`, { method: "POST", body, signal: state.request.signal });
    if (response.ok) return { response, content: await response.blob() };
    const found = await response.json().catch(() => ({}));
    tell(found.error || `The server answers ${response.status} ${response.statusText}`);
  } catch (error) {
    if (error.name !== "AbortError") tell("The server does not answer; is it still running?");
  } finally {
    setBusy(false);
  }
  return null;
}

function setBusy(busy) {
  for (const button of document.querySelectorAll("#find, #choose, #example, #downloads button")) button.disabled = busy;
  byId("stop").hidden = !busy;
  byId("status").textContent = busy ? "working…" : "";
  document.body.toggleAttribute("data-busy", busy);
}

async function find() {
  const body = state.file || byId("text").value;
  const found = await post(body, "");
  if (!found) return;
  state.answer = JSON.parse(await found.content.text());
  state.sent = body;
  const select = byId("document");
  select.replaceChildren(...state.answer.documents.map(({ title }, value) => element("option", { value, textContent: title })));
  byId("which").hidden = state.answer.documents.length < 2;
  byId("result").hidden = false;
  showWarnings(state.answer.warnings);
  show(0);
}

async function download(form) {
  const found = await post(state.sent, `?form=${form}`);
  if (!found) return;
  showWarnings([...new Set([...state.answer.warnings, ...JSON.parse(found.response.headers.get("X-Warnings") || "[]")])]);
  const link = element("a", { href: URL.createObjectURL(found.content), download: `predictions.${form}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// Showing

function showWarnings(warnings) {
  byId("warnings").replaceChildren(...warnings.map((textContent) => element("li", { textContent })));
  byId("warnings").hidden = !warnings.length;
}

function show(number) {
  state.shown = number;
  const { sents, vertexSet, predictions } = state.answer.documents[number];
  const types = [...KNOWN_TYPES];
  const entities = vertexSet.map((mentions) => {
    const type = mentions.map((mention) => mention.type).find((found) => typeof found === "string") || "";
    if (!types.includes(type)) types.push(type);
    const name = mentions.reduce((best, mention) => (mention.name.length > best.length ? mention.name : best), "");
    return { name, type, mentions, colour: `t${types.indexOf(type) % COLOURS}` };
  });
  const least = Number(byId("least").value);
  const relations = predictions.filter(({ confidence }) => confidence === undefined || confidence >= least).sort((a, b) => b.margin - a.margin);
  byId("sure").hidden = !predictions.some(({ confidence }) => confidence !== undefined);
  byId("limit").textContent = least.toFixed(2);
  const used = new Map(entities.map(({ type, colour }) => [type, colour]));
  byId("legend").replaceChildren(...[...used].sort().map(([type, colour]) => element("span", {}, element("span", { className: `type ${colour}`, textContent: type || "no type" }), MEANINGS[type] ? ` ${MEANINGS[type]}` : "")));
  byId("shown").replaceChildren(...textOf(sents, entities));
  byId("rows").replaceChildren(...relations.slice(0, MOST_ROWS).map((relation) => rowOf(relation, entities)));
  const all = relations.length < predictions.length ? ` of ${predictions.length.toLocaleString("en")}` : "";
  byId("count").textContent = predictions.length ? `(${relations.length.toLocaleString("en")}${all})` : "";
  const none = predictions.length ? "No relation is as sure." : "No relation is predicted.";
  byId("more").textContent = relations.length > MOST_ROWS
    ? `The ${MOST_ROWS} relations of the largest margin are shown; a download has all.`
    : (relations.length ? "" : none);
  drawGraph(entities, relations, none);
}

// While the pointer is on something of an entity, or of a pair of them, marks all that is theirs, and the sentences that
// are the evidence of a relation.
function pickable(node, entities, evidence = []) {
  node.classList.add("pickable");
  node.entities = entities;
  node.addEventListener("mouseenter", () => pick(entities, evidence));
  node.addEventListener("mouseleave", () => pick([]));
  return node;
}

function pick(entities, evidence = []) {
  [...byId("shown").children].forEach((line, sentence) => line.classList.toggle("evidence", evidence.includes(sentence)));
  const nodes = [...byId("result").querySelectorAll(".pickable")];
  const isOn = ({ entities: own }) => (own.length === 2 && entities.length === 2 ? own.join() === entities.join() : own.some((entity) => entities.includes(entity)));
  const near = nodes.filter((node) => node.matches(".edge") && isOn(node)).flatMap((node) => node.entities);
  for (const node of nodes) node.classList.toggle("on", isOn(node) || (node.matches(".node") && near.includes(node.entities[0])));
  byId("result").classList.toggle("picked", entities.length > 0);
}

const tightBefore = (token) => /^[.,;:!?%)\]}’”]/.test(token) || /^('|n't)/.test(token);
const tightAfter = (token) => /^[([{“‘$£€]$/.test(token);

function textOf(sents, entities) {
  const owners = sents.map((tokens) => tokens.map(() => null)); // the innermost mention of each token
  const mentions = entities.flatMap(({ mentions: own }, entity) => own.map((mention) => ({ entity, mention })));
  mentions.sort((a, b) => (b.mention.pos[1] - b.mention.pos[0]) - (a.mention.pos[1] - a.mention.pos[0]));
  for (const owner of mentions) owners[owner.mention.sent_id].fill(owner, ...owner.mention.pos);
  return sents.map((tokens, sentence) => {
    const line = element("p");
    for (let start = 0; start < tokens.length;) {
      const owner = owners[sentence][start];
      let end = start;
      let text = "";
      while (end < tokens.length && owners[sentence][end] === owner) {
        if (end > start && !tightBefore(tokens[end]) && !tightAfter(tokens[end - 1])) text += " ";
        text += tokens[end];
        end += 1;
      }
      if (start && !tightBefore(tokens[start]) && !tightAfter(tokens[start - 1])) line.append(" ");
      if (owner) {
        const { name, type, colour } = entities[owner.entity];
        line.append(pickable(element("mark", { className: colour, textContent: text, title: type ? `${name} (${type})` : name }), [owner.entity]));
      } else line.append(text);
      start = end;
    }
    return line;
  });
}

function rowOf({ h_idx: head, t_idx: tail, r, relation, score, threshold, margin, confidence, evidence }, entities) {
  const end = (entity) => element("td", {}, element("span", { className: `type ${entities[entity].colour}`, textContent: entities[entity].name || `entity ${entity}` }));
  const scores = `score ${score.toFixed(2)}, threshold ${threshold.toFixed(2)}`;
  return pickable(element("tr", {}, end(head), element("td", { textContent: relation, title: r }), end(tail),
    element("td", { className: "number", textContent: confidence === undefined ? "" : confidence.toFixed(2) }),
    element("td", { className: "number", textContent: margin.toFixed(2), title: scores })), [head, tail], evidence);
}

// The graph

// `none` is told where there is no relation.
function drawGraph(entities, relations, none) {
  const frame = byId("graph");
  const edges = new Map(); // "head tail" -> the names of its relations
  for (const { h_idx: head, t_idx: tail, relation } of relations.slice(0, MOST_EDGES)) {
    const key = `${head} ${tail}`;
    if (!edges.has(key)) edges.set(key, { head, tail, names: [] });
    edges.get(key).names.push(relation);
  }
  const nodes = [...new Set([...edges.values()].flatMap(({ head, tail }) => [head, tail]))].sort((a, b) => a - b);
  const rest = entities.length - nodes.length;
  const notes = relations.length > MOST_EDGES ? [`The ${MOST_EDGES} relations of the largest margin are drawn.`] : [];
  if (rest) notes.push(`${rest} ${rest > 1 ? "entities" : "entity"} without such a relation ${rest > 1 ? "are" : "is"} left out.`);
  byId("left").textContent = notes.join(" ");
  if (!nodes.length) {
    frame.replaceChildren(element("p", { className: "note", textContent: none }));
    return;
  }
  const width = Math.max(frame.clientWidth, 280);
  const height = Math.min(Math.max(320, 220 + 16 * nodes.length), 640);
  const places = placesOf(nodes, [...edges.values()], width, height);
  const boxes = [...places.values()].map(({ x, y }, at) => nodeBox(x, y, short(entities[nodes[at]].name, 22)));
  const lines = [...edges.values()].map((edge) => edgeOf(edge, places, edges.has(`${edge.tail} ${edge.head}`), boxes, width));
  if (lines.some((line) => line.matches(".tight"))) byId("left").textContent = ["Point at an entity to see the names that have no room.", ...notes].join(" ");
  const taken = []; // boxes of names: a name stands above its point where below it would cover another
  const points = nodes.map((entity) => {
    const { x, y } = places.get(entity);
    const { name, type, colour } = entities[entity];
    const text = short(name, 22);
    const middle = within(x, text, 7.2, width);
    const box = (base) => [middle - 3.6 * text.length, base - 12, middle + 3.6 * text.length, base + 4];
    const isFree = ([a, b, c, d]) => taken.every(([e, f, g, h]) => c < e || g < a || d < f || h < b);
    const base = isFree(box(y + 23)) || !isFree(box(y - 13)) ? y + 23 : y - 13;
    taken.push(box(base));
    return pickable(drawn("g", { class: `node ${colour}` },
      drawn("circle", { cx: x, cy: y, r: 8 }),
      titled(drawn("text", { x: middle, y: base }, text), type ? `${name} (${type})` : name)), [entity]);
  });
  const tip = drawn("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, drawn("path", { d: "M0 0 8 4 0 8z" }));
  frame.replaceChildren(drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Graph of the relations; the table says the same" }, drawn("defs", {}, tip), ...lines, ...points));
}

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
const nodeBox = (x, y, text) => [x - 3.6 * text.length, y - 10, x + 3.6 * text.length, y + 28];
// The middle of a text that must not go over an edge of the drawing.
const within = (x, text, size, width) => Math.min(Math.max(x, (size / 2) * text.length + 4), width - (size / 2) * text.length - 4);

function titled(node, text) {
  const title = drawn("title");
  title.textContent = text;
  node.append(title);
  return node;
}

// A line from head to tail, bent so that the way back has its own; its label stands where it covers least, and is only
// shown for a picked entity where it would cover another.
function edgeOf({ head, tail, names }, places, back, boxes, width) {
  const [from, to] = [places.get(head), places.get(tail)];
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = Math.hypot(dx, dy) || 1;
  const bend = back ? 0.22 : 0.06;
  const middle = { x: (from.x + to.x) / 2 - dy * bend, y: (from.y + to.y) / 2 + dx * bend };
  const towards = (end, gap) => {
    const far = Math.hypot(middle.x - end.x, middle.y - end.y) || 1;
    return { x: end.x + ((middle.x - end.x) * gap) / far, y: end.y + ((middle.y - end.y) * gap) / far };
  };
  const [start, stop] = [towards(from, Math.min(9, length / 3)), towards(to, Math.min(11, length / 3))];
  const text = short(names.join(", "), 34);
  const tries = [0.5, 0.42, 0.58, 0.35, 0.65, 0.28, 0.72].map((t) => {
    const x = within((1 - t) ** 2 * start.x + 2 * t * (1 - t) * middle.x + t ** 2 * stop.x, text, 6, width);
    const y = (1 - t) ** 2 * start.y + 2 * t * (1 - t) * middle.y + t ** 2 * stop.y;
    return { x, y, box: [x - 3 * text.length, y - 8, x + 3 * text.length, y + 6] };
  });
  const overlap = ([a, b, c, d]) => boxes.reduce((sum, [e, f, g, h]) => sum + Math.max(0, Math.min(c, g) - Math.max(a, e)) * Math.max(0, Math.min(d, h) - Math.max(b, f)), 0);
  const best = tries.reduce((found, place) => {
    const cost = overlap(place.box);
    return !found || cost < found.cost ? { ...place, cost } : found;
  }, null);
  const tight = best.cost > 30;
  if (!tight) boxes.push(best.box);
  const round = (value) => value.toFixed(1);
  const path = drawn("path", { d: `M${round(start.x)} ${round(start.y)}Q${round(middle.x)} ${round(middle.y)} ${round(stop.x)} ${round(stop.y)}`, "marker-end": "url(#arrow)" });
  return pickable(drawn("g", { class: tight ? "edge tight" : "edge" }, titled(path, names.join(", ")), titled(drawn("text", { x: round(best.x), y: round(best.y) }, text), names.join(", "))), [head, tail]);
}

// Places of nodes, the same each time: all push each other away and edges pull (Fruchterman and Reingold), from a circle.
function placesOf(nodes, edges, width, height) {
  const at = nodes.map((_, i) => ({ x: Math.cos((2 * Math.PI * i) / nodes.length), y: Math.sin((2 * Math.PI * i) / nodes.length) }));
  const index = new Map(nodes.map((entity, i) => [entity, i]));
  const k = 1.6 / Math.sqrt(nodes.length);
  for (let step = 0; step < 500; step += 1) {
    const moves = at.map(({ x, y }) => ({ x: -0.25 * x, y: -0.25 * y }));
    for (let i = 0; i < at.length; i += 1) {
      for (let j = 0; j < i; j += 1) {
        const [dx, dy] = [at[i].x - at[j].x, at[i].y - at[j].y];
        const force = (k * k) / Math.max(dx * dx + dy * dy, 1e-4);
        moves[i].x += dx * force; moves[i].y += dy * force;
        moves[j].x -= dx * force; moves[j].y -= dy * force;
      }
    }
    for (const { head, tail } of edges) {
      const [i, j] = [index.get(head), index.get(tail)];
      const [dx, dy] = [at[i].x - at[j].x, at[i].y - at[j].y];
      const force = Math.hypot(dx, dy) / k / 2;
      moves[i].x -= dx * force; moves[i].y -= dy * force;
      moves[j].x += dx * force; moves[j].y += dy * force;
    }
    const heat = 0.1 * (1 - step / 500);
    at.forEach((point, i) => {
      const far = Math.hypot(moves[i].x, moves[i].y) || 1;
      point.x += (moves[i].x / far) * Math.min(far, heat);
      point.y += (moves[i].y / far) * Math.min(far, heat);
    });
  }
  const [margin, foot] = [Math.min(70, width / 6), 34];
  const fit = (axis, low, high) => {
    const values = at.map((point) => point[axis]);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    for (const point of at) point[axis] = most - least < 1e-6 ? (low + high) / 2 : low + ((point[axis] - least) / (most - least)) * (high - low);
  };
  fit("x", margin, width - margin);
  fit("y", 24, height - foot);
  return new Map(nodes.map((entity, i) => [entity, at[i]]));
}

// The page's parts

byId("run").textContent = about.run;
byId("model").textContent = about.model;
byId("formats").textContent = `Plain English text, whose entities are found here, or a file of documents with entities (${about.formats.filter((name) => name !== "text").join(", ")}); up to ${about.maxBytes.toLocaleString("en")} bytes.`;
byId("downloads").append(...about.forms.map((form) => element("button", { type: "button", textContent: form, title: `predictions.${form}`, onclick: () => download(form) })));
byId("form").addEventListener("submit", (event) => { event.preventDefault(); if (!byId("find").disabled) find(); });
byId("text").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit(); });
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => { if (event.target.files[0]) chooseFile(event.target.files[0]); });
byId("remove").addEventListener("click", () => { chooseFile(null); byId("text").focus(); });
byId("example").addEventListener("click", () => { chooseFile(null); byId("text").value = EXAMPLE; });
byId("stop").addEventListener("click", () => state.request.abort());
byId("least").addEventListener("input", () => show(state.shown));
byId("document").addEventListener("change", (event) => show(Number(event.target.value)));
document.addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").hidden = !event.dataTransfer.types.includes("Files"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file && !document.body.hasAttribute("data-busy")) chooseFile(file);
});
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => { if (state.answer) show(state.shown); }, 200);
});
