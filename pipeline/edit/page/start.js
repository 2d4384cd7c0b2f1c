// The first screen: samples, sessions from before, and whatever is brought as a file.
import { ask } from "./connection.js";
import { t } from "./texts.js";

const $ = (id) => document.getElementById(id);
const GALLERY = 12, RECENT = 6;
const MODEL = /\.(pkl|pt)$/i, SESSION = /\.animedrag$/i;

export class Start {
  // `studio`: { begun, connection, machine, notice(text, milliseconds, alarming) } of the page.
  constructor(studio) {
    this.studio = studio;
    this.first = 0;
    this.of = null; // the model whose samples were asked for
    const say = async (type, values) => { await studio.begun; studio.connection.say(type, values); };
    $("more").addEventListener("click", () => this.gallery(this.first + GALLERY));
    $("seed").addEventListener("change", ({ target }) => { if (target.value !== "" && target.checkValidity()) say("seed", { seed: Number(target.value) }); });
    $("drop-carried").addEventListener("click", () => say("drop"));
    for (const id of ["file", "session-file", "model-file"]) {
      $(id).addEventListener("change", ({ target }) => { this.bring(target.files[0]); target.value = ""; });
    }
    document.addEventListener("paste", (event) => this.bring([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
    document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
    document.addEventListener("drop", (event) => { event.preventDefault(); $("drop").classList.remove("over"); this.bring(event.dataTransfer.files[0]); });
    this.showWaiting();
  }

  // In another language now.
  words() {
    this.showRecent();
    [...$("gallery").children].forEach((item, index) => item.firstChild?.setAttribute("aria-label", t("sample", { n: this.first + index })));
  }

  // --- samples ---

  showWaiting() {
    $("gallery").replaceChildren(...Array.from({ length: GALLERY }, () => { const item = document.createElement("li"); item.className = "waiting"; return item; }));
    $("gallery").setAttribute("aria-busy", "true");
  }

  // Once a model: a state is told more often than its samples are wanted.
  galleryOf(model) {
    if (this.of === model) return;
    this.of = model;
    this.gallery();
  }

  // Another model: from its first face on.
  anew() { this.first = 0; this.of = null; this.showWaiting(); }

  // The connection was lost: what was asked for may not come.
  again() { if ($("gallery").hasAttribute("aria-busy")) this.of = null; }

  // Asked for again while it is still coming, it keeps what has come: a tile may hold the focus.
  gallery(first = this.first) {
    if (first !== this.first || !$("gallery").hasAttribute("aria-busy")) { this.first = first; this.showWaiting(); }
    this.studio.connection.say("gallery", { first, count: GALLERY });
  }

  addSample(seed, body) {
    const item = $("gallery").children[seed - this.first];
    if (!item) return;
    item.className = "";
    const address = URL.createObjectURL(new Blob([body], { type: "image/png" }));
    const there = item.querySelector("img");
    if (there) { URL.revokeObjectURL(there.src); there.src = address; }
    else item.replaceChildren(tile(address, t("sample", { n: seed }), () => this.studio.connection.say("seed", { seed })));
    if (seed === this.first + GALLERY - 1) $("gallery").removeAttribute("aria-busy");
  }

  showCarried(count) {
    $("carried").hidden = !count;
    $("carried-words").textContent = t("carried", { n: count });
  }

  // --- files ---

  // A picture, a session file or a model: told apart by name.
  async bring(file) {
    if (!file) return;
    await this.studio.begun; // a quick hand waits for the session
    const { machine, notice } = this.studio;
    const most = MODEL.test(file.name) ? machine.model_bytes : SESSION.test(file.name) ? machine.session_bytes : machine.upload_bytes;
    if (file.size > most) { notice(t("error_too_large", { name: file.name, mb: Math.round(most / 1e6) })); return; }
    if (MODEL.test(file.name)) await this.#send(`model?name=${encodeURIComponent(nameOf(file.name))}`, file, "bringing_model");
    else if (SESSION.test(file.name)) await this.#send("file", file, "bringing_session");
    else await this.#send("picture", file, "looking");
  }

  async replay(file) { await this.#send("file?replay=true", file, "bringing_session"); }

  async #send(rest, file, words) {
    const { connection, notice } = this.studio;
    notice(t(words), 0, false);
    try { await ask("PUT", connection.path(rest), file); } catch (error) { notice(error.message); }
  }

  // --- sessions from before ---

  recent() { try { return JSON.parse(localStorage.getItem("sessions")) ?? []; } catch { return []; } }
  forget(id) { localStorage.setItem("sessions", JSON.stringify(this.recent().filter((one) => one.id !== id))); }

  remember(id, thumb) {
    const list = this.recent(), known = list.find((one) => one.id === id);
    const entry = { id, when: Date.now(), thumb: thumb ?? known?.thumb ?? "" };
    localStorage.setItem("sessions", JSON.stringify([entry, ...list.filter((one) => one.id !== id)].slice(0, RECENT)));
    history.replaceState(null, "", `#s=${id}`);
  }

  thumbnail(id, image) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 128;
    canvas.getContext("2d").drawImage(image, 0, 0, 128, 128);
    this.remember(id, canvas.toDataURL("image/jpeg", 0.8));
  }

  showRecent() {
    const list = this.recent().filter((one) => one.thumb);
    $("continue").hidden = !list.length;
    $("recent").replaceChildren(...list.map((one) => {
      const item = document.createElement("li");
      item.append(tile(one.thumb, `${t("continue")}: ${new Date(one.when).toLocaleString()}`, () => { location.hash = `s=${one.id}`; location.reload(); }));
      return item;
    }));
  }
}

// What a model may be called: the file's name without what no name may have.
function nameOf(file) {
  return file.replace(MODEL, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "").slice(0, 64) || "model";
}

function tile(source, words, action) {
  const button = document.createElement("button"), image = new Image();
  button.type = "button"; image.alt = ""; image.src = source;
  button.setAttribute("aria-label", words);
  button.append(image);
  button.addEventListener("click", action);
  return button;
}
