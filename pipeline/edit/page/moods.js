// The palette of emotions: small pictures of the very face, strength, sliders of single features.
import { t } from "./texts.js";

const $ = (id) => document.getElementById(id);
const EMOTIONS = ["neutral", "smile", "laugh", "wink", "surprised", "embarrassed", "pout", "angry", "sad", "sleepy"];
const SLIDERS = ["eye_size", "eye_open_left", "eye_open_right", "gaze_x", "gaze_y", "mouth_width", "mouth_open", "mouth_corners", "brow_height", "brow_tilt", "head_yaw", "head_pitch", "head_roll"];

const SETTLED = 700; // ms

export class Moods {
  // `say(type, values)` to the studio.
  constructor(say) {
    this.say = say;
    this.chosen = null;
    this.asked = false;
    this.frame = 0; // whose pictures are shown
    $("moods").replaceChildren(...EMOTIONS.map((name) => this.#button(name)));
    $("features").replaceChildren(...SLIDERS.map((name) => this.#slider(name)));
    $("moods-box").addEventListener("toggle", () => this.ask());
    for (const id of ["strength", "mood-mirror"]) $(id).addEventListener("change", () => this.#express());
    $("strength").addEventListener("input", () => this.#showStrength());
    $("features-none").addEventListener("click", () => { for (const name of SLIDERS) $(`feature-${name}`).value = 0; this.#express(); });
    $("mood-enter").addEventListener("click", () => say("enter"));
    this.#showStrength();
  }

  // Another face: its own pictures are to be made, once somebody looks.
  reset() {
    this.chosen = null; this.asked = false; this.frame = 0;
    for (const image of $("moods").querySelectorAll("img")) image.removeAttribute("src");
    for (const name of SLIDERS) $(`feature-${name}`).value = 0;
    this.#showChosen();
    this.ask();
  }

  // That picture is edited now: the palette follows, once nobody scrubs or steps any more.
  of(frame) {
    if (frame === this.frame) return;
    this.frame = frame;
    clearTimeout(this.later);
    this.later = setTimeout(() => { this.asked = false; this.ask(); }, SETTLED);
  }

  // The emotion has become part of what is edited: the next one starts from there.
  entered() {
    this.chosen = null;
    for (const name of SLIDERS) $(`feature-${name}`).value = 0;
    this.#showChosen();
    $("mood-enter").disabled = true;
  }

  ask() {
    if (this.asked || !$("moods-box").open) return;
    this.asked = true;
    $("moods").setAttribute("aria-busy", "true");
    this.say("moods");
  }

  show(name, body) {
    const image = $("moods").querySelector(`[data-mood="${name}"] img`);
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([body], { type: "image/png" }));
    if (name === EMOTIONS.at(-1)) $("moods").removeAttribute("aria-busy");
  }

  shown() { $("mood-enter").disabled = false; }

  words() {
    for (const name of EMOTIONS) $("moods").querySelector(`[data-mood="${name}"] span`).textContent = t(`emotion_${name}`);
    for (const name of SLIDERS) $(`feature-${name}`).previousSibling.textContent = t(`feature_${name}`);
  }

  #button(name) {
    const item = document.createElement("li"), button = document.createElement("button"), image = new Image(80, 80);
    button.type = "button"; button.dataset.mood = name; button.setAttribute("aria-pressed", "false");
    image.alt = "";
    button.append(image, document.createElement("span"));
    button.addEventListener("click", () => { this.chosen = this.chosen === name ? null : name; this.#showChosen(); this.#express(); });
    item.append(button);
    return item;
  }

  #slider(name) {
    const label = document.createElement("label"), words = document.createElement("span"), input = document.createElement("input");
    label.className = "feature";
    Object.assign(input, { type: "range", id: `feature-${name}`, min: -1, max: 1, step: 0.05, value: 0 });
    input.addEventListener("change", () => this.#express());
    input.addEventListener("dblclick", () => { input.value = 0; this.#express(); });
    label.append(words, input);
    return label;
  }

  #showStrength() { $("strength-words").textContent = `${Math.round($("strength").value * 100)} %`; }
  #showChosen() { for (const button of $("moods").querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.mood === this.chosen)); }

  #express() {
    const sliders = Object.fromEntries(SLIDERS.map((name) => [name, Number($(`feature-${name}`).value)]).filter(([, value]) => value));
    const emotions = this.chosen ? { [this.chosen]: Number($("strength").value) } : {};
    if (!this.chosen && !Object.keys(sliders).length) emotions.neutral = 0; // back to the face as it is
    this.say("express", { emotions, sliders, mirror: $("mood-mirror").checked });
  }
}
