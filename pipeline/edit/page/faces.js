// Choosing the face in an uploaded picture: found boxes, or one placed by hand.
import { t } from "./texts.js";

const $ = (id) => document.getElementById(id);

export class Faces extends EventTarget {
  constructor() {
    super();
    this.canvas = $("faces-canvas");
    this.box = null;
    for (const id of ["box-x", "box-y", "box-size", "box-roll"]) $(id).addEventListener("input", () => this.#read());
    $("faces-go").addEventListener("click", () => this.dispatchEvent(new CustomEvent("take", { detail: this.box })));
    $("faces-back").addEventListener("click", () => { this.told = null; this.dispatchEvent(new Event("back")); });
    this.canvas.addEventListener("pointerdown", (event) => { this.canvas.setPointerCapture(event.pointerId); this.held = true; this.#to(event); });
    this.canvas.addEventListener("pointermove", (event) => { if (this.held) this.#to(event); });
    this.canvas.addEventListener("pointerup", () => { this.held = false; });
    this.canvas.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      this.box.x += by[0] * this.size[0] / 200; this.box.y += by[1] * this.size[1] / 200;
      this.#write();
    });
  }

  show(faces, picture, aspect) {
    this.faces = faces; this.picture = picture; this.aspect = aspect;
    this.size = [picture.width, picture.height];
    // Told again (a lost connection, another language): a frame that was moved stays where it is.
    const told = JSON.stringify([faces, this.size]), again = told === this.told && this.box;
    this.told = told;
    const middle = { x: this.size[0] / 2, y: this.size[1] / 2, width: Math.min(...this.size) * 0.7, roll: 0 };
    if (!again) this.box = { ...(faces[0] ?? middle) };
    const count = Math.min(faces.length, 2);
    $("faces-title").textContent = t(["faces_none", "faces_one", "faces_many"][count]);
    $("faces-lead").textContent = t("faces_lead");
    this.canvas.setAttribute("aria-label", $("faces-title").textContent);
    this.#write();
    $("faces-title").focus();
  }

  #to(event) {
    const box = this.canvas.getBoundingClientRect();
    this.box.x = (event.clientX - box.left) / box.width * this.size[0];
    this.box.y = (event.clientY - box.top) / box.height * this.size[1];
    this.#write();
  }

  #read() {
    const short = Math.min(...this.size);
    this.box = { x: $("box-x").value / 1000 * this.size[0], y: $("box-y").value / 1000 * this.size[1], width: $("box-size").value / 1000 * short, roll: Number($("box-roll").value) };
    this.#paint();
  }

  #write() {
    const short = Math.min(...this.size);
    $("box-x").value = this.box.x / this.size[0] * 1000; $("box-y").value = this.box.y / this.size[1] * 1000;
    $("box-size").value = this.box.width / short * 1000; $("box-roll").value = this.box.roll;
    this.#paint();
  }

  #paint() {
    const room = [Math.min(innerWidth - 32, 920), Math.max(220, innerHeight - 400)];
    const scale = Math.min(room[0] / this.size[0], room[1] / this.size[1], 2);
    const [width, height] = this.size.map((side) => Math.round(side * scale));
    const c = this.canvas.getContext("2d");
    this.canvas.width = width * devicePixelRatio; this.canvas.height = height * devicePixelRatio;
    this.canvas.style.width = `${width}px`;
    c.scale(devicePixelRatio, devicePixelRatio);
    c.drawImage(this.picture, 0, 0, width, height);
    c.fillStyle = "#10121c88"; c.fillRect(0, 0, width, height);
    const b = this.box, side = b.width * scale, high = side * this.aspect;
    c.save(); c.translate(b.x * scale, b.y * scale); c.rotate(b.roll * Math.PI / 180);
    c.beginPath(); c.rect(-side / 2, -high / 2, side, high); c.clip();
    c.rotate(-b.roll * Math.PI / 180); c.translate(-b.x * scale, -b.y * scale);
    c.drawImage(this.picture, 0, 0, width, height); c.restore();
    c.save(); c.translate(b.x * scale, b.y * scale); c.rotate(b.roll * Math.PI / 180);
    c.strokeStyle = "#fff"; c.lineWidth = 3; c.strokeRect(-side / 2, -high / 2, side, high); c.restore();
    this.#boxes(scale);
  }

  #boxes(scale) {
    const buttons = this.faces.length < 2 ? [] : this.faces.map((face, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", t("face_number", { n: index + 1 }));
      button.setAttribute("aria-pressed", String(face.x === this.box.x && face.y === this.box.y));
      const side = face.width * scale * 0.6;
      Object.assign(button.style, { left: `${face.x * scale - side / 2}px`, top: `${face.y * scale - side / 2}px`, width: `${side}px`, height: `${side}px` });
      button.addEventListener("click", () => { this.box = { ...face }; this.#write(); $("faces-go").focus(); });
      return button;
    });
    $("faces-boxes").replaceChildren(...buttons);
  }
}
