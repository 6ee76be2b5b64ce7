"use strict";
// The browser of pairs. Data stands in the page as JSON, in blocks that are parsed when they are needed:
//   data-about      {relations: [name by class], patterns: [[key, what it means], ...], shown: [keys at first],
//                    runs: [name], gold: whether the documents have labels}
//   data-documents  [[title, [[token, ...], ...], [[name, type, [[sentence, start, end], ...]], ...],
//                     [[head, tail, class], ...]], ...]
//   data-run=N      [[document, head, tail, pattern, threshold, [predicted class, ...], [class, score, ...]], ...],
//                   each with a list of evidence sentences at the end where the run predicts them
// Texts of documents reach the page as textContent only.
const ROW = 48; // height of a row of the list, as in the style sheet
const byId = (id) => document.getElementById(id);
const blocks = (selector) => [...document.querySelectorAll(`script[${selector}]`)].flatMap((node) => JSON.parse(node.textContent));
const about = blocks("data-about")[0];
const documents = blocks("data-documents").map(([title, sentences, entities, labels]) => ({ title, sentences, entities, labels }));
const goldOf = documents.map(({ labels }) => {
  const found = new Map();
  for (const [head, tail, relation] of labels) {
    const key = `${head} ${tail}`;
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(relation);
  }
  return found;
});
const state = { run: 0, beside: -1, document: -1, relation: -1, patterns: new Set(about.shown), at: 0, found: [] };

const runs = new Map(); // parsed runs; the two in view alone are kept
function pairsOf(run) {
  if (!runs.has(run)) {
    for (const other of runs.keys()) if (other !== state.run && other !== state.beside) runs.delete(other);
    const pairs = blocks(`data-run="${run}"`).map(([document, head, tail, pattern, threshold, predicted, scores, evidence]) => (
      { document, head, tail, pattern: about.patterns[pattern][0], threshold, predicted, scores, evidence }));
    runs.set(run, pairs);
  }
  return runs.get(run);
}
const gold = (pair) => goldOf[pair.document].get(`${pair.head} ${pair.tail}`) || [];
const nameOf = (pair, side) => documents[pair.document].entities[pair[side]][0];

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
  select.value = chosen;
}

function count(keys) {
  const counts = new Map();
  for (const key of keys) counts.set(key, (counts.get(key) || 0) + 1);
  return counts;
}

// The choices of document and relation, with the number of pairs that each has among the chosen patterns.
function fillChoices() {
  const pairs = pairsOf(state.run).filter((pair) => state.patterns.has(pair.pattern));
  const perDocument = count(pairs.map((pair) => pair.document));
  const perRelation = count(pairs.flatMap((pair) => [...new Set([...gold(pair), ...pair.predicted])]));
  const listed = (counts, name, chosen) => [...counts.keys(), ...(chosen < 0 || counts.has(chosen) ? [] : [chosen])]
    .map((key) => [key, `${name(key)} (${counts.get(key) || 0})`]);
  fillSelect(byId("document"), [[-1, "all"], ...listed(perDocument, (key) => documents[key].title, state.document)], state.document);
  const relations = listed(perRelation, (key) => about.relations[key], state.relation).sort((a, b) => a[1].localeCompare(b[1]));
  fillSelect(byId("relation"), [[-1, "all"], ...relations], state.relation);
}

function filter() {
  const before = state.found[state.at];
  const { document: chosen, relation } = state;
  state.found = pairsOf(state.run).filter((pair) => state.patterns.has(pair.pattern)
    && (chosen < 0 || pair.document === chosen)
    && (relation < 0 || pair.predicted.includes(relation) || gold(pair).includes(relation)));
  const same = before ? state.found.findIndex((pair) => pair.document === before.document && pair.head === before.head && pair.tail === before.tail) : 0;
  byId("count").textContent = `${state.found.length.toLocaleString("en")} pairs`;
  fillChoices();
  select(Math.max(same, 0));
}

// Only the rows in view are in the page, however many pairs there are.
function drawList() {
  const list = byId("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(state.found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 5);
  const end = element("div"); // gives the list its full height
  end.style.height = `${state.found.length * ROW}px`;
  const rows = [];
  for (let at = first; at < last; at += 1) {
    const pair = state.found[at];
    const row = element("div", { className: "row", id: `row-${at}`, role: "option", ariaSelected: String(at === state.at), onclick: () => select(at) },
      element("div", {}, `${nameOf(pair, "head")} → ${nameOf(pair, "tail")}`),
      element("div", { className: "where" }, badge(pair.pattern), ` ${documents[pair.document].title}`));
    row.style.top = `${at * ROW}px`;
    rows.push(row);
  }
  list.replaceChildren(end, ...rows);
  list.setAttribute("aria-activedescendant", `row-${state.at}`);
}

function select(at) {
  state.at = Math.min(Math.max(at, 0), Math.max(state.found.length - 1, 0));
  const list = byId("list");
  const top = state.at * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  drawList();
  drawPair();
}

const badge = (pattern) => element("span", { className: `badge ${pattern}`, textContent: pattern });

function drawPair() {
  const pair = state.found[state.at];
  if (!pair) {
    byId("pair").replaceChildren(element("p", { textContent: "No pair fits these filters." }));
    return;
  }
  const meaning = about.patterns.find(([key]) => key === pair.pattern)[1];
  const named = (relations) => relations.map((relation) => about.relations[relation]).join(", ") || "none";
  const facts = [["predicted", named(pair.predicted)], ...(about.gold ? [["gold", named(gold(pair))]] : [])];
  if (pair.evidence && pair.predicted.length) facts.push(["evidence", pair.evidence.length ? `sentences ${pair.evidence.join(", ")}` : "none"]);
  const charts = element("div", { className: "charts" }, chart(state.run, pair));
  if (state.beside >= 0) {
    const other = pairsOf(state.beside).find(({ document: number, head, tail }) => number === pair.document && head === pair.head && tail === pair.tail);
    charts.append(other ? chart(state.beside, other)
      : element("p", { className: "chart", textContent: `${about.runs[state.beside]}: no relation predicted` }));
  }
  byId("pair").replaceChildren(
    element("h3", {},
      element("span", { className: "headname", textContent: nameOf(pair, "head") }), " → ",
      element("span", { className: "tailname", textContent: nameOf(pair, "tail") })),
    element("p", { className: "note" }, badge(pair.pattern), ` ${meaning}`),
    element("ul", { className: "facts" }, ...facts.map(([key, text]) => element("li", {}, element("b", { textContent: `${key}: ` }), text))),
    charts,
    element("h4", { textContent: documents[pair.document].title }),
    documentText(pair),
  );
  byId("pair").scrollTop = 0;
}

// Bars from the threshold: to the right for what is predicted, to the left for what is not.
function chart(run, pair) {
  const right = new Set(gold(pair));
  const scores = [];
  for (let at = 0; at < pair.scores.length; at += 2) scores.push({ relation: pair.scores[at], score: pair.scores[at + 1] });
  scores.sort((a, b) => b.score - a.score);
  const low = Math.min(pair.threshold, ...scores.map(({ score }) => score));
  const high = Math.max(pair.threshold, ...scores.map(({ score }) => score));
  const place = (score) => (100 * (score - low)) / (high - low || 1);
  const rows = scores.map(({ relation, score }) => {
    const predicted = pair.predicted.includes(relation);
    let kind = "";
    if (about.gold) kind = right.has(relation) ? (predicted ? "hit" : "missed") : (predicted ? "wrong" : "");
    else if (predicted) kind = "hit";
    const fill = element("span", { className: "fill" });
    fill.style.left = `${Math.min(place(score), place(pair.threshold))}%`;
    fill.style.width = `${Math.abs(place(score) - place(pair.threshold))}%`;
    const line = element("span", { className: "threshold" });
    line.style.left = `${place(pair.threshold)}%`;
    const words = { hit: about.gold ? "gold and predicted" : "predicted", missed: "gold, not predicted", wrong: "predicted, not gold" };
    return element("div", { className: `bar ${kind}`, title: `${about.relations[relation]}: ${words[kind] || "neither gold nor predicted"}` },
      element("span", { className: "name", textContent: { hit: "✓ ", missed: "– ", wrong: "✗ " }[kind] || "" }, about.relations[relation]),
      element("span", { className: "track" }, fill, line),
      element("span", { className: "score", textContent: score.toFixed(2) }));
  });
  return element("div", { className: "chart" },
    element("h4", {}, about.runs[run], " ", badge(pair.pattern)),
    element("div", { className: "axis", textContent: `highest scores against the threshold, ${pair.threshold.toFixed(2)} (the line)` }),
    ...rows);
}

const colour = (entity) => `hsl(${(entity * 137.5) % 360} 70% 90%)`;

function documentText(pair) {
  const { sentences, entities } = documents[pair.document];
  // the entity of each token; where mentions overlap, the pair's own come last and stay
  const owners = sentences.map((tokens) => tokens.map(() => null));
  const order = [...entities.keys()].sort((a, b) => (a === pair.head || a === pair.tail) - (b === pair.head || b === pair.tail));
  for (const entity of order) {
    for (const mention of entities[entity][2]) {
      const [sentence, start, end] = mention;
      for (let token = start; token < end; token += 1) owners[sentence][token] = { entity, mention };
    }
  }
  const covers = (entity, sentence, token) => entities[entity][2].some(([at, start, end]) => at === sentence && start <= token && token < end);
  return element("div", { className: "text" }, ...sentences.map((tokens, sentence) => {
    const line = element("p", { className: pair.evidence?.includes(sentence) ? "evidence" : "" }, element("span", { className: "number", textContent: sentence }));
    for (let start = 0; start < tokens.length;) {
      const owner = owners[sentence][start];
      let end = start + 1;
      while (end < tokens.length && owners[sentence][end]?.mention === owner?.mention) end += 1;
      const text = tokens.slice(start, end).join(" ");
      if (owner) {
        const mark = element("mark", { textContent: text, title: `${entities[owner.entity][0]} (${entities[owner.entity][1]})` });
        mark.style.background = colour(owner.entity);
        for (const side of ["head", "tail"]) if (covers(pair[side], sentence, start)) mark.classList.add(side);
        line.append(mark, " ");
      } else line.append(`${text} `);
      start = end;
    }
    return line;
  }));
}

function nextDocument(step) {
  const here = state.found[state.at]?.document;
  let at = state.at;
  while (state.found[at]?.document === here && at >= 0 && at < state.found.length) at += step;
  if (!state.found[at]) return;
  const there = state.found[at].document;
  while (step < 0 && state.found[at - 1]?.document === there) at -= 1; // to its first pair
  select(at);
}

function toggle(pattern) {
  if (!state.patterns.delete(pattern)) state.patterns.add(pattern);
  byId(`pattern-${pattern}`).checked = state.patterns.has(pattern);
  filter();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { byId("list").focus(); return; }
  if (["SELECT", "INPUT", "BUTTON"].includes(event.target.tagName)) return;
  const inList = byId("pairs").getBoundingClientRect().top < window.innerHeight / 2;
  const jump = { r: "run", b: "beside", d: "document", l: "relation" }[event.key];
  const digit = about.patterns.length > 1 && about.patterns[event.key];
  if (!inList) return; // above, the keys scroll the page
  if (["ArrowDown", "j"].includes(event.key)) select(state.at + 1);
  else if (["ArrowUp", "k"].includes(event.key)) select(state.at - 1);
  else if (event.key === "]") nextDocument(1);
  else if (event.key === "[") nextDocument(-1);
  else if (digit) toggle(digit[0]);
  else if (jump) byId(jump).focus();
  else return;
  event.preventDefault();
}

function start() {
  fillSelect(byId("run"), about.runs.map((name, run) => [run, name]), 0);
  fillSelect(byId("beside"), [[-1, "none"], ...about.runs.map((name, run) => [run, name])], -1);
  byId("beside").parentElement.hidden = about.runs.length < 2;
  byId("patterns").hidden = about.patterns.length < 2;
  byId("patterns").append(...about.patterns.map(([key, meaning]) => element("label", { title: meaning },
    element("input", { type: "checkbox", id: `pattern-${key}`, checked: state.patterns.has(key), onchange: () => toggle(key) }), key)));
  for (const id of ["run", "document", "relation"]) {
    byId(id).onchange = (event) => { state[id] = Number(event.target.value); filter(); };
  }
  byId("beside").onchange = (event) => { state.beside = Number(event.target.value); drawPair(); };
  byId("help-button").onclick = () => {
    byId("help").hidden = !byId("help").hidden;
    byId("help-button").ariaExpanded = String(!byId("help").hidden);
  };
  byId("filters").onsubmit = (event) => event.preventDefault();
  byId("list").onscroll = drawList;
  window.onresize = drawList;
  document.onkeydown = onKey;
  filter();
}

if (about) start();
