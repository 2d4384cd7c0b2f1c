// The lists beside the stage: points, what was saved, the timeline's curve.
import { t } from "./texts.js";

const $ = (id) => document.getElementById(id);

export function showPoints(handles, chosen, stop, on) {
  $("points-empty").hidden = handles.length > 0;
  const list = $("points");
  // Kept where possible, so that the focus stays on a button that is still there.
  while (list.children.length > handles.length) list.lastChild.remove();
  handles.forEach((handle, index) => {
    const item = list.children[index] ?? list.appendChild(makePoint());
    const there = handle.distance <= stop;
    item.classList.toggle("chosen", handle.id === chosen);
    item.classList.toggle("there", there);
    const [choose, remove] = item.querySelectorAll("button");
    item.querySelector(".number").textContent = index + 1;
    item.querySelector(".left").textContent = there ? t("there") : t("left", { d: handle.distance.toFixed(1) });
    item.querySelector(".sure").textContent = t("sure", { c: Math.round(handle.confidence * 100) });
    choose.setAttribute("aria-label", `${t("choose_point", { n: index + 1 })}, ${item.querySelector(".left").textContent}`);
    choose.setAttribute("aria-current", String(handle.id === chosen));
    choose.onclick = () => on.choose(handle.id);
    remove.setAttribute("aria-label", t("remove", { n: index + 1 }));
    remove.onclick = () => on.remove(handle.id);
  });
}

function makePoint() {
  const item = document.createElement("li");
  const choose = document.createElement("button");
  choose.type = "button"; choose.className = "choose";
  for (const name of ["number", "left", "sure"]) {
    const span = document.createElement("span");
    span.className = name;
    choose.append(span);
  }
  const remove = document.createElement("button");
  remove.type = "button"; remove.className = "icon"; remove.textContent = "×";
  item.append(choose, remove);
  return item;
}

export function showSaved(saved, address) {
  $("saved").hidden = !saved;
  $("saved").textContent = saved ? t("saved", { r: saved.reference }) : "";
  showKept($("kept"), saved?.files ?? [], address);
}

// Links to files that can be taken home.
export function showKept(list, names, address) {
  list.replaceChildren(...names.map((name) => {
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = address(`kept/${name}`); link.download = `animedrag-${name}`; link.textContent = t(name);
    item.append(link);
    return item;
  }));
}

export function drawCurve(canvas, distances, at) {
  const box = canvas.getBoundingClientRect();
  if (!box.width) return;
  canvas.width = box.width * devicePixelRatio; canvas.height = box.height * devicePixelRatio;
  const c = canvas.getContext("2d");
  const known = distances.filter((value) => value !== null && value !== undefined);
  if (known.length < 2) return;
  const most = Math.max(...known, 1e-6), last = distances.length - 1;
  c.beginPath();
  let begun = false;
  distances.forEach((value, index) => {
    if (value === null || value === undefined) return;
    const x = index / last * canvas.width, y = canvas.height * (1 - 0.9 * value / most) - 1;
    if (begun) c.lineTo(x, y); else c.moveTo(x, y);
    begun = true;
  });
  c.strokeStyle = getComputedStyle(canvas).color; c.lineWidth = 1.5 * devicePixelRatio; c.stroke();
  const first = distances.findIndex((value) => value !== null && value !== undefined), end = distances.findLastIndex((value) => value !== null && value !== undefined);
  c.lineTo(end / last * canvas.width, canvas.height); c.lineTo(first / last * canvas.width, canvas.height); c.closePath();
  c.globalAlpha = 0.16; c.fillStyle = c.strokeStyle; c.fill(); c.globalAlpha = 1;
  const here = distances[at] ?? most;
  c.beginPath(); c.arc(at / last * canvas.width, canvas.height * (1 - 0.9 * here / most) - 1, 2.5 * devicePixelRatio, 0, 7); c.fillStyle = c.strokeStyle; c.fill();
}
