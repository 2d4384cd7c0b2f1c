// The studio's page: what the session says is shown, what the artist does is said.
import { Connection, ask } from "./connection.js";
import { Faces } from "./faces.js";
import { showHistory } from "./history.js";
import { Moods } from "./moods.js";
import { Start } from "./start.js";
import { drawCurve, showKept, showPoints, showSaved } from "./panel.js";
import { chooseLanguage, fillLanguages, sentence, t } from "./texts.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const SCREENS = ["start", "faces", "finding", "work"];
const KEPT_FRAMES = 400;

const view = new View($("canvas"));
const faces = new Faces();
let connection, state = {}, wanted = null, picture = null, machine = { processors: 1 }, mode = "face", mood = null, scrubbing = false, drawn = -1,
  ended = false; // a drag has, and the state that says so is on its way
const frames = new Map(), distances = new Map();
const moods = new Moods((type, values) => connection.say(type, values));
const start = new Start({ get begun() { return begun; }, get connection() { return connection; }, get machine() { return machine; }, notice });

// --- beginning ---

chooseLanguage();
fillLanguages($("language"));
moods.words();
setTheme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
const begun = begin();
begun.catch((error) => notice(error.message));

async function begin() {
  [machine] = await Promise.all([ask("GET", "/api/machine"), fillModels()]);
  let session = new URLSearchParams(location.hash.slice(1)).get("s");
  if (session) {
    try { await ask("GET", `/api/sessions/${encodeURIComponent(session)}`); } catch { notice(t("gone")); start.forget(session); session = null; }
  }
  if (!session) { session = (await ask("POST", "/api/sessions")).id; history.replaceState(null, "", "/"); }
  start.showRecent();
  connect(session);
}

function connect(session) {
  connection = new Connection(session);
  const on = (name, listener) => connection.addEventListener(name, ({ detail }) => listener(detail?.header ?? detail, detail?.body));
  on("open", ({ again }) => { if (again) { start.again(); notice(t("again"), 3000); } });
  on("lost", ({ reason }) => notice(reason || t("lost"), 0));
  on("gone", () => { location.hash = ""; location.reload(); });
  on("unsaid", () => notice(t("lost"), 0));
  on("error", (header) => { notice(sentence(header)); });
  on("sample", (header, body) => start.addSample(header.seed, body));
  on("phase", (header) => { notice(t({ finding: "looking", importing: "bringing_model", expressing: "expressing" }[header.phase]), 0, false); });
  on("imported", async () => { await fillModels(); $("model").value = state.model; });
  on("packed", () => download(connection.path("file"), "session.animedrag"));
  on("preview", showPreview);
  on("frame", showFrame);
  on("full", showFull);
  on("mood", (header, body) => moods.show(header.emotion, body));
  on("expressed", showMood);
  on("ended", (header) => { notice(endedWords(header), 6000, false); ended = true; });
  on("state", showState);
}

async function fillModels() {
  const models = await ask("GET", "/api/models");
  $("model").replaceChildren(...models.map((one) => new Option(one.side ? `${one.name}, ${one.side} px` : one.name, one.reference)));
}

// --- showing ---

function showState(next) {
  const before = state;
  state = next;
  notice("", -1);
  $("save").disabled = state.saving; $("save").textContent = t(state.saving && state.making !== "sheet" ? "saving" : "save");
  if (before.saving && !state.saving) showKeptNow(before);
  showMachine();
  if ([...$("model").options].some((option) => option.value === state.model)) $("model").value = state.model;
  start.showCarried(state.carried);
  if (state.phase === "empty") { show("start"); start.galleryOf(state.model); return; }
  start.remember(connection.session);
  if (state.phase === "faces") { showFaces(); return; }
  if (state.phase === "inverting") { showFinding(); return; }
  if (before.work !== state.work || before.phase !== "ready") { frames.clear(); distances.clear(); drawn = -1; picture = mood = null; setMode("face"); moods.reset(); }
  view.resize(state.width, state.height);
  showViews();
  $("likeness").hidden = state.kind !== "drawing";
  $("sheet").hidden = state.kind !== "drawing"; $("sheet").disabled = state.saving && state.making !== "sheet";
  $("sheet").textContent = t(state.making === "sheet" ? "sheet_cancel" : "sheet"); $("sheet-note").hidden = $("sheet").hidden || state.frame === 0;
  view.handles = state.handles;
  if (!view.handles.some((handle) => handle.id === view.chosen)) view.chosen = view.handles.at(-1)?.id ?? null;
  view.setMask(state.mask ? Uint8Array.from(atob(state.mask), (char) => char.charCodeAt(0)) : null);
  document.body.classList.toggle("running", state.running);
  if (state.running !== before.running && before.phase === "ready") say(state.running ? t("started") : state.reason ? endedWords(state) : t("stopped"));
  $("run-words").textContent = t(state.running ? "stop" : "start");
  $("run").disabled = $("step").disabled = !state.handles.length;
  $("undo").disabled = !state.can_undo; $("redo").disabled = !state.can_redo;
  showSaved(state.saved, (rest) => connection.path(rest));
  showKept($("sheet-kept"), state.sheet?.files ?? [], (rest) => connection.path(rest));
  show("work");
  state.timeline.forEach((frame, index) => distances.set(frame, state.distances[index]));
  showHint(); refreshPoints(); showTimeline();
  const whole = mode === "picture";
  if (ended && !state.running) {
    ended = false;
    if (mode === "face" && state.kind === "drawing") setMode("picture"); // what the drag was for
  }
  if (!state.running) moods.of(state.frame);
  showHistory(state.nodes, state.node, framePath, (node) => connection.say("go", { node }));
  need(state.frame);
  if (whole && state.running) setMode("face");
  else if (whole) connection.say("full");
}

// Why a drag ended by itself.
function endedWords({ status, reason }) { return ["arrived", "lost", "stuck", "exhausted"].includes(status) ? t(`ended_${status}`) : reason; }

// What was being saved is, or was left off.
function showKeptNow(before) {
  const sheet = before.making === "sheet", made = sheet ? state.sheet : state.saved;
  if (made) say(t("saved", { r: made.reference }));
  if (sheet && state.sheet?.reference === before.sheet?.reference) notice(t("sheet_stopped"), 5000, false);
}

function show(screen) {
  if (document.body.dataset.screen === screen && !$(screen).hidden) return;
  document.body.dataset.screen = screen;
  for (const name of SCREENS) $(name).hidden = name !== screen;
  if (screen === "work") { view.fit(); $("canvas").setAttribute("aria-label", t("canvas")); $("canvas").focus({ preventScroll: true }); }
  if (screen === "finding") $("finding-title").focus();
}

function showMachine() {
  const words = [t(`machine_${state.device}`, { n: machine.processors, g: state.device_name })];
  if (state.step_seconds) words.push(t("speed", { s: (1 / state.step_seconds).toFixed(state.step_seconds > 0.2 ? 1 : 0) }));
  $("machine").textContent = words.join(" · ");
}

async function showFaces() {
  picture = await bitmap(`${connection.path("picture")}?${Date.now()}`);
  if (state.phase !== "faces") return;
  show("faces");
  faces.show(state.faces, picture, state.height / state.width);
}

function showFinding() {
  show("finding");
  $("finding-bar").value = 0;
  $("finding-words").textContent = t("phase_project", { p: 0 });
  if (picture && faces.box) {
    const canvas = $("finding-mine"), c = canvas.getContext("2d"), box = faces.box;
    canvas.width = canvas.height = 512;
    c.translate(256, 256); c.rotate(-box.roll * Math.PI / 180); c.scale(512 / box.width, 512 / box.width); c.translate(-box.x, -box.y);
    c.drawImage(picture, 0, 0);
  }
}

async function showPreview(header, body) {
  if (document.body.dataset.screen !== "finding") showFinding();
  const image = await createImageBitmap(new Blob([body], { type: "image/png" }));
  const canvas = $("finding-model");
  canvas.width = canvas.height = 512;
  canvas.getContext("2d").imageSmoothingQuality = "high";
  canvas.getContext("2d").drawImage(image, 0, 0, 512, 512);
  const share = header.step / Math.max(1, header.steps);
  $("finding-bar").value = header.phase === "project" ? share / 2 : 0.5 + share / 2;
  $("finding-words").textContent = t(`phase_${header.phase}`, { p: Math.round(share * 100) });
}

async function showFrame(header, body) {
  const { work } = state, shown = document.body.dataset.screen === "work" && !scrubbing;
  distances.set(header.frame, header.distance);
  if (shown) { // in the order in which they come: pictures may be decoded in another
    const at = state.timeline.indexOf(header.parent); // a slow page may have missed the parent
    if (!state.timeline.includes(header.frame)) state.timeline = [...(at < 0 ? state.timeline : state.timeline.slice(0, at + 1)), header.frame];
    state.frame = wanted = header.frame;
    if (view.grip?.kind !== "move") view.handles = header.handles;
    refreshPoints(); showTimeline();
  }
  const image = await createImageBitmap(new Blob([body], { type: "image/png" }));
  if (work !== state.work) return; // of another face
  keep(header.frame, image);
  if (!shown || scrubbing || wanted < header.frame || header.frame < drawn) return;
  drawn = header.frame;
  if (header.frame === 0) view.before = mode === "face" ? image : view.before;
  view.image = image;
  view.draw();
}

// A browser may keep what it had from there; another face has other addresses.
function framePath(frame) { return connection.path(`frames/${frame}?w=${state.work}`); }

function keep(frame, image) {
  frames.set(frame, image);
  if (frames.size > KEPT_FRAMES) { const oldest = [...frames.keys()].find((key) => key !== 0 && frames.get(key) !== view.image); frames.get(oldest).close(); frames.delete(oldest); }
}

async function frameImage(frame) {
  if (frames.has(frame)) return frames.get(frame);
  const { work } = state, image = await bitmap(framePath(frame));
  if (work === state.work) keep(frame, image);
  return image;
}

async function need(frame) {
  wanted = frame;
  const [image, first] = await Promise.all([frameImage(frame), frameImage(0)]);
  if (wanted !== frame) return;
  view.image = image;
  if (mode === "face") view.before = first;
  view.draw();
  start.thumbnail(connection.session, image);
}

function download(address, name) {
  const link = document.createElement("a");
  link.href = address; link.download = name;
  link.click();
}

async function bitmap(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(t("lost"));
  return createImageBitmap(await answer.blob());
}

async function showFull(header, body) {
  if (mode !== "picture") return;
  view.whole = await createImageBitmap(new Blob([body], { type: "image/webp" }));
  picture ??= await bitmap(connection.path("picture"));
  view.before = picture;
  view.draw(); showHint();
}

function showViews() {
  $("view-mood").hidden = !mood; $("view-picture").hidden = state.kind !== "drawing";
  $("view-choice").hidden = $("view-mood").hidden && $("view-picture").hidden;
}

async function showMood(header, body) {
  mood = { frame: header.frame, image: await createImageBitmap(new Blob([body], { type: "image/webp" })), whole: header.whole };
  say(t("expressed", { e: t(`emotion_${header.reads}`) }));
  moods.shown(); showViews();
  if (mode === "mood") await paintMood(); else setMode("mood");
}

async function paintMood() {
  view.whole = mood.image;
  if (mood.whole) picture ??= await bitmap(connection.path("picture"));
  view.before = mood.whole ? picture : await frameImage(mood.frame);
  view.draw();
}

function setMode(next) {
  mode = next;
  $("view-face").setAttribute("aria-pressed", String(next === "face"));
  $("view-picture").setAttribute("aria-pressed", String(next === "picture"));
  $("view-mood").setAttribute("aria-pressed", String(next === "mood"));
  view.whole = null;
  if (next === "picture") connection.say("full");
  else if (next === "mood") paintMood();
  else if (state.phase === "ready" && state.frame !== undefined) need(state.frame);
  view.fit(); showHint();
}

function refreshPoints() {
  showPoints(view.handles, view.chosen, state.stop_px ?? 0, { choose: (id) => { view.choose(id); }, remove: (id) => connection.say("remove", { id }) });
}

function showTimeline() {
  const scrub = $("scrub"), at = state.timeline.indexOf(state.frame), count = state.timeline.length;
  scrub.max = count - 1;
  scrub.disabled = count < 2;
  if (!scrubbing) scrub.value = at;
  scrub.setAttribute("aria-valuetext", t("frame", { i: at + 1, n: count }));
  $("frame-words").textContent = t("frame", { i: at + 1, n: count });
  drawCurve($("curve"), state.timeline.map((frame) => distances.get(frame)), at);
}

function showHint() {
  const key = mode === "picture" ? (view.whole ? "hint_whole" : "hint_making") : mode !== "face" || view.compareAt !== null || view.tool !== "point" ? null
    : view.cursor ? "hint_keys" : view.pending ? "hint_target" : state.handles?.length ? (state.frame === 0 && !state.running ? "hint_ready" : null) : "hint_first";
  $("hint").textContent = key ? t(key) : "";
}

let noticeTimer;
function notice(text, milliseconds = 8000, alarming = true) {
  clearTimeout(noticeTimer);
  if (milliseconds < 0 && !$("notice").dataset.sticky) return;
  $("notice").hidden = !text;
  $("notice").textContent = text;
  $("notice").dataset.sticky = milliseconds === 0 ? "yes" : "";
  if (!alarming) say(text);
  if (milliseconds > 0) noticeTimer = setTimeout(() => { $("notice").hidden = true; }, milliseconds);
}

function say(text) { $("status").textContent = text; }

// --- the start ---

$("model").addEventListener("change", (event) => { start.anew(); state = {}; connection.say("model", { model: event.target.value }); });
faces.addEventListener("take", ({ detail }) => connection.say("face", { x: detail.x, y: detail.y, width: detail.width, roll: detail.roll }));
faces.addEventListener("back", () => connection.say("cancel"));
$("finding-cancel").addEventListener("click", () => connection.say("cancel"));

// --- the work ---

view.addEventListener("add", ({ detail }) => { connection.say("add", { ...detail, mirrored: $("mirror").checked }); showHint(); });
view.addEventListener("move", ({ detail }) => { connection.say("move", detail); refreshPoints(); });
view.addEventListener("remove", ({ detail }) => connection.say("remove", detail));
view.addEventListener("mask", () => { const bytes = view.maskBytes(); connection.say("mask", {}, bytes.some((value) => value) ? bytes : undefined); });
view.addEventListener("choose", refreshPoints);
view.addEventListener("pending", showHint);

const run = () => { if (!$("run").disabled) connection.say(state.running ? "pause" : "run"); };
const actions = { run, step: () => connection.say("step"), undo: () => connection.say("undo"), redo: () => connection.say("redo"),
  "zoom-in": () => view.zoomBy(1.3), "zoom-out": () => view.zoomBy(1 / 1.3), "zoom-fit": () => view.fit(),
  "mask-all": () => view.fillMask(true), "mask-none": () => view.fillMask(false),
  "view-face": () => setMode("face"), "view-mood": () => setMode("mood"), sheet: () => { if (state.making === "sheet") connection.say("stop_sheet"); else if (name()) connection.say("sheet", { name: name() }); }, "view-picture": () => setMode("picture"), "compare-on": toggleCompare,
  theme: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  pack: () => connection.say("pack"), carry: () => connection.say("carry"),
  save: () => { if (name()) connection.say(mode === "mood" ? "save_mood" : "save", { name: name() }); } };
for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
for (const tool of ["point", "keep", "erase", "hand"]) $(`tool-${tool}`).addEventListener("click", () => setTool(tool));

// What the edit is filed as: the name written, with dashes for what no name may have; "" (and said so) where nothing is left.
function name() {
  const input = $("name"), written = input.value.trim();
  input.value = written.normalize("NFKD").replace(/\p{M}/gu, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|-+$/g, "") || (written ? "" : "studio");
  input.setCustomValidity(input.value ? "" : t("bad_name"));
  return input.reportValidity() ? input.value : "";
}

function setTool(tool) {
  view.tool = tool;
  for (const name of ["point", "keep", "erase", "hand"]) $(`tool-${name}`).setAttribute("aria-pressed", String(name === tool));
  $("canvas").style.cursor = tool === "hand" ? "grab" : "crosshair";
  showHint(); view.draw();
}

function toggleCompare() {
  const on = view.compareAt === null;
  view.compareAt = on ? $("compare-at").value / 1000 : null;
  $("compare").hidden = !on;
  $("compare-on").setAttribute("aria-pressed", String(on));
  showHint(); view.draw();
}
view.addEventListener("cut", () => { $("compare-at").value = Math.round(view.compareAt * 1000); });
$("mood-enter").addEventListener("click", () => { moods.entered(); setMode("face"); });
$("compare-at").addEventListener("input", (event) => { view.compareAt = event.target.value / 1000; view.draw(); });
$("brush").addEventListener("input", (event) => { view.brush = Number(event.target.value); view.draw(); });
$("mask-show").addEventListener("change", (event) => { view.maskShown = event.target.checked; view.draw(); });
$("recipe").addEventListener("change", async ({ target }) => {
  const file = target.files[0];
  target.value = "";
  if (!file) return;
  if (!file.name.endsWith(".json")) { start.replay(file); return; }
  try { connection.say("recipe", { recipe: JSON.parse(await file.text()) }); } catch (error) { notice(error.message); }
});

$("scrub").addEventListener("input", async (event) => {
  scrubbing = true;
  if (state.running) connection.say("pause");
  const frame = state.timeline[Number(event.target.value)];
  wanted = frame;
  const image = await frameImage(frame);
  if (wanted === frame) { view.image = image; view.draw(); }
});
$("scrub").addEventListener("change", (event) => { scrubbing = false; connection.say("seek", { frame: state.timeline[Number(event.target.value)] }); });

document.addEventListener("keydown", (event) => {
  if (document.body.dataset.screen !== "work" || event.target.matches("input[type=text], input[type=number], select")) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") { event.preventDefault(); connection.say(event.shiftKey ? "redo" : "undo"); return; }
  if ((event.ctrlKey || event.metaKey) && key === "y") { event.preventDefault(); connection.say("redo"); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target === $("canvas")) { event.preventDefault(); run(); return; }
  const keys = { v: () => setTool("point"), b: () => setTool("keep"), e: () => setTool("erase"), h: () => setTool("hand"), ".": () => connection.say("step"),
    "+": actions["zoom-in"], "=": actions["zoom-in"], "-": actions["zoom-out"], 0: actions["zoom-fit"], c: toggleCompare, m: () => $("mask-show").click() };
  keys[key]?.();
});
$("canvas").addEventListener("keydown", () => queueMicrotask(showHint));

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  if (localStorage.getItem("theme") !== theme) localStorage.setItem("theme", theme);
}
$("language").addEventListener("change", (event) => { chooseLanguage(event.target.value); moods.words(); start.words(); if (state.phase) showState(state); });
addEventListener("resize", () => { if (document.body.dataset.screen === "work") showTimeline(); });
addEventListener("unhandledrejection", (event) => notice(event.reason?.message ?? String(event.reason)));
