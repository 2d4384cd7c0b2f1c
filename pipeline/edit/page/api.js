// The API page: draws what /api/openapi.json says. Everything is set as text, nothing as markup.
const VERBS = ["get", "post", "put", "delete"];

function make(name, words = "", className = "") {
  const element = document.createElement(name);
  element.textContent = words;
  if (className) element.className = className;
  return element;
}

// Prose with `code` in it, its lines joined.
function paragraph(words) {
  const made = make("p");
  words.replace(/(?<!\n)\n(?!\n)/g, " ").split("`").forEach((part, index) => made.append(index % 2 ? make("code", part) : part));
  return made;
}

function operation(path, verb, told) {
  const box = make("article", "", "operation"), head = make("h3");
  head.append(make("span", verb.toUpperCase(), `verb ${verb}`), make("span", path));
  box.append(head, paragraph(told.description ?? told.summary ?? ""));
  const given = (told.parameters ?? []).map((one) => `${one.name} (${one.in}${one.required ? "" : ", may be left out"}: ${one.schema?.type ?? "text"})`);
  if (given.length) box.append(make("p", `Takes ${given.join("; ")}.`, "small"));
  return box;
}

function table(caption, messages) {
  const box = make("div", "", "wide-table"), made = make("table"), head = make("tr");
  box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", caption);
  made.append(make("caption", caption));
  for (const name of ["type", "fields", "meaning", "body"]) { const cell = make("th", name); cell.scope = "col"; head.append(cell); }
  made.append(head);
  for (const message of messages) {
    const row = make("tr"), type = make("td");
    type.append(make("code", message.type));
    const fields = make("td");
    fields.append(make("code", message.fields.join(", ")));
    row.append(type, fields, make("td", message.meaning), make("td", message.body));
    made.append(row);
  }
  box.append(made);
  return box;
}

function section(id, title, ...content) {
  const made = make("section");
  made.id = id;
  made.append(make("h2", title), ...content);
  const link = make("a", title);
  link.href = `#${id}`;
  document.querySelector("#contents").append(link);
  return made;
}

async function show() {
  const told = await (await fetch("/api/openapi.json")).json();
  const groups = new Map();
  for (const [path, verbs] of Object.entries(told.paths)) for (const verb of VERBS) {
    if (!verbs[verb]) continue;
    const group = verbs[verb].tags?.[0] ?? "more";
    groups.set(group, [...(groups.get(group) ?? []), operation(path, verb, verbs[verb])]);
  }
  const socket = told["x-socket"], words = make("p"), address = make("code", socket.path);
  words.append("A WebSocket at ", address, ". ", socket.framing);
  const sections = [...groups].map(([name, content]) => section(name, name, ...content));
  sections.push(section("socket", "socket", words, table("To the studio", socket.toStudio), table("From the studio", socket.fromStudio)));
  document.querySelector("#content").replaceChildren(...sections);
  document.querySelector("#content").removeAttribute("aria-busy");
}

document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
show().catch((error) => { document.querySelector("#content").textContent = error.message; });
