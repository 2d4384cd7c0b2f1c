// Everything that was done, as a tree: each thing leads back to itself, on whatever branch it lies.
import { t } from "./texts.js";

const $ = (id) => document.getElementById(id);
const SHOWN = 60; // the latest; a long session would make the list slow

// nodes: [{ parent, label, frame }] by number; on(node) goes there.
export function showHistory(nodes, current, pictureOf, on) {
  const depth = branches(nodes);
  const list = $("history"), from = Math.max(0, nodes.length - SHOWN);
  const items = nodes.slice(from).map((node, index) => {
    const number = from + index;
    const item = list.querySelector(`[data-node="${number}"]`) ?? makeItem(number, on);
    const button = item.firstChild, image = button.querySelector("img");
    item.style.setProperty("--depth", Math.min(depth[number], 6));
    button.setAttribute("aria-current", String(number === current));
    button.querySelector("span").textContent = wordsOf(node.label);
    const address = pictureOf(node.frame);
    if (image.getAttribute("src") !== address) image.src = address;
    return item;
  });
  if (list.children.length !== items.length || items.some((item, index) => list.children[index] !== item)) list.replaceChildren(...items);
  $("history-count").textContent = nodes.length - 1;
}

function makeItem(number, on) {
  const item = document.createElement("li"), button = document.createElement("button"), image = new Image(28, 28);
  item.dataset.node = number;
  button.type = "button";
  image.alt = ""; image.loading = "lazy";
  button.append(image, document.createElement("span"));
  button.addEventListener("click", () => on(number));
  item.append(button);
  return item;
}

// How far each node is indented: the first child goes on in its parent's column, others branch off.
function branches(nodes) {
  const depth = [], children = [];
  nodes.forEach(({ parent }, number) => {
    if (parent === null) { depth[number] = 0; return; }
    children[parent] = (children[parent] ?? 0) + 1;
    depth[number] = depth[parent] + children[parent] - 1;
  });
  return depth;
}

function wordsOf(label) {
  const [kind, detail] = label.split(" ");
  if (kind === "emotion") return detail === "features" ? t("features") : t(`emotion_${detail}`);
  return t(`did_${kind}`, { n: detail ?? "" });
}
