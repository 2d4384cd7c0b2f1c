// The stage: draws the face, the mask and the points; turns pointers and keys into wishes.
// Wishes are events: add, move, remove, mask, choose. Knows nothing of sockets.
const REACH = 16; // how near, in CSS px, a pointer takes hold of a point
const CLICK = 6; // less movement than this is a click
const MOVE_EVERY = 60; // ms between moves that are told while dragging

export class View extends EventTarget {
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.size = [64, 64];
    this.image = null; this.before = null; this.compareAt = null; this.whole = null;
    this.handles = []; this.chosen = null; this.end = "target";
    this.pending = null; // a handle that has no target yet
    this.cursor = null; // where the keyboard points
    this.pointer = null;
    this.tool = "point"; this.brush = 10; this.maskShown = true;
    this.mask = document.createElement("canvas");
    this.zoom = 1; this.shift = [0, 0];
    this.pointers = new Map(); this.grip = null; this.told = 0; this.asked = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel", "keydown", "contextmenu", "blur"]) {
      canvas.addEventListener(name, (event) => this[`on${name}`]?.(event), { passive: false });
    }
  }

  resize(width, height) {
    if (this.size[0] === width && this.size[1] === height && this.mask.width === width) return;
    this.size = [width, height];
    this.mask.width = width; this.mask.height = height;
    this.fit();
  }

  fit() { this.zoom = 1; this.shift = [0, 0]; this.draw(); }

  zoomBy(factor, at = null) {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = at ?? [box.width / 2, box.height / 2];
    const before = this.toFace(x, y);
    this.zoom = Math.min(12, Math.max(0.5, this.zoom * factor));
    const [nx, ny] = this.toScreen(before);
    this.shift = [this.shift[0] + x - nx, this.shift[1] + y - ny];
    this.draw();
  }

  get shown() { return this.whole ? [this.whole.width, this.whole.height] : this.size; }

  place() {
    const box = this.canvas.getBoundingClientRect();
    const [width, height] = this.shown;
    const margin = Math.min(box.width, box.height) > 500 ? 40 : 12;
    const scale = this.zoom * Math.min((box.width - 2 * margin) / width, (box.height - 2 * margin) / height);
    return { scale, x: (box.width - width * scale) / 2 + this.shift[0], y: (box.height - height * scale) / 2 + this.shift[1] };
  }

  toScreen([x, y]) { const p = this.place(); return [p.x + x * p.scale, p.y + y * p.scale]; }
  toFace(x, y) { const p = this.place(); return [(x - p.x) / p.scale, (y - p.y) / p.scale]; }
  inside([x, y]) { return [Math.min(this.size[0], Math.max(0, x)), Math.min(this.size[1], Math.max(0, y))]; }

  // Points grow with a very large stage, where they would be specks.
  get unit() { return Math.min(2, Math.max(1, Math.min(this.canvas.clientWidth, this.canvas.clientHeight) / 1000)); }

  draw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.paint(); });
  }

  paint() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width) return;
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    const [w, h] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) { this.canvas.width = w; this.canvas.height = h; }
    const c = this.context;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, box.width, box.height);
    const p = this.place();
    const [width, height] = this.shown.map((side) => side * p.scale);
    const after = this.whole ?? this.image;
    if (!after) return;
    c.imageSmoothingEnabled = true;
    c.imageSmoothingQuality = "high";
    c.save();
    c.beginPath(); c.roundRect(p.x, p.y, width, height, 10); c.clip();
    c.drawImage(after, p.x, p.y, width, height);
    if (this.compareAt !== null && this.before) {
      const cut = p.x + width * this.compareAt;
      c.save(); c.beginPath(); c.rect(p.x, p.y, cut - p.x, height); c.clip();
      c.drawImage(this.before, p.x, p.y, width, height); c.restore();
      c.fillStyle = "#1d203366"; c.fillRect(cut - 2, p.y, 4, height);
      c.fillStyle = "#fff"; c.fillRect(cut - 1, p.y, 2, height);
    }
    if (!this.whole && this.compareAt === null && this.maskShown) {
      c.globalAlpha = 0.5; c.drawImage(this.mask, p.x, p.y, width, height); c.globalAlpha = 1;
    }
    c.restore();
    if (this.compareAt !== null && this.before) this.paintCut(p.x + width * this.compareAt, p.y + height / 2);
    if (this.whole || this.compareAt !== null) return;
    for (const [index, handle] of this.handles.entries()) this.paintHandle(handle, index + 1);
    if (this.pending) {
      const goal = this.cursor ?? this.pointer;
      if (goal) this.paintArrow(this.toScreen(this.pending), this.toScreen(goal));
      this.paintDot(this.toScreen(this.pending), "", true);
    }
    if (this.cursor) this.paintCursor(this.toScreen(this.cursor));
    if (["keep", "erase"].includes(this.tool) && (this.pointer || this.cursor)) {
      const [x, y] = this.toScreen(this.cursor ?? this.pointer);
      this.ring(x, y, Math.max(2, this.brushRadius() * p.scale), "#1d2033", 3); this.ring(x, y, Math.max(2, this.brushRadius() * p.scale), "#fff", 1.5);
    }
  }

  paintCut(x, y) {
    const c = this.context;
    c.beginPath(); c.arc(x, y, 17, 0, 7); c.fillStyle = "#fff"; c.fill();
    this.ring(x, y, 17, "#1d203366", 1);
    for (const side of [-1, 1]) { this.line([x + side * 4, y - 5], [x + side * 9, y], "#1d2033", 2); this.line([x + side * 9, y], [x + side * 4, y + 5], "#1d2033", 2); }
  }

  // Where before and after part, from a pointer.
  cutAt(x) {
    const p = this.place();
    this.compareAt = Math.min(1, Math.max(0, (x - p.x) / (this.shown[0] * p.scale)));
    this.tell("cut"); this.draw();
  }

  paintHandle(handle, number) {
    const at = this.toScreen(handle.position), goal = this.toScreen(handle.target), from = this.toScreen(handle.start);
    const chosen = this.chosen === handle.id;
    const c = this.context, u = this.unit;
    if (Math.hypot(at[0] - from[0], at[1] - from[1]) > 3) this.line(from, at, "#e5343f", 2 * u, [2 * u, 4 * u]);
    this.paintArrow(at, goal);
    this.ring(...goal, 9 * u, "#fff", 6 * u); this.ring(...goal, 9 * u, "#1f5fd6", 3.2 * u);
    if (chosen) this.ring(...(this.end === "target" ? goal : at), 15 * u, "#fff", 2 * u);
    this.paintDot(at, number, true, handle.confidence);
    if (handle.distance > 0.05) {
      c.font = `600 ${12 * u}px system-ui, sans-serif`; c.textAlign = "left";
      const words = `${handle.distance.toFixed(1)}`;
      const [x, y] = [goal[0] + 14 * u, goal[1] - 10 * u];
      c.lineWidth = 4; c.strokeStyle = "#fff"; c.lineJoin = "round"; c.strokeText(words, x, y); c.fillStyle = "#123f96"; c.fillText(words, x, y);
    }
  }

  paintDot([x, y], words, filled, confidence = 1) {
    const c = this.context, u = this.unit;
    c.beginPath(); c.arc(x, y, 10.5 * u, 0, 7); c.fillStyle = "#fff"; c.fill();
    c.beginPath(); c.arc(x, y, 8 * u, 0, 7); c.fillStyle = "#d92b38"; if (filled) c.fill();
    // How surely the point is recognised: a ring that closes.
    c.beginPath(); c.arc(x, y, 9.4 * u, -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * Math.min(1, Math.max(0, confidence))); c.lineWidth = 2 * u; c.strokeStyle = "#8d0f1b"; c.stroke();
    c.fillStyle = "#fff"; c.font = `700 ${10 * u}px system-ui, sans-serif`; c.textAlign = "center"; c.fillText(words, x, y + 3.6 * u);
  }

  paintArrow(from, to) {
    const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
    const u = this.unit;
    if (length < 20 * u) return;
    const [ux, uy] = [(to[0] - from[0]) / length * u, (to[1] - from[1]) / length * u];
    const tip = [to[0] - ux * 12, to[1] - uy * 12];
    this.line(from, tip, "#fff", 5 * u); this.line(from, tip, "#1f5fd6", 2.4 * u);
    const c = this.context;
    c.beginPath(); c.moveTo(tip[0] + ux * 3, tip[1] + uy * 3); c.lineTo(tip[0] - ux * 7 - uy * 5, tip[1] - uy * 7 + ux * 5); c.lineTo(tip[0] - ux * 7 + uy * 5, tip[1] - uy * 7 - ux * 5); c.closePath();
    c.fillStyle = "#1f5fd6"; c.fill();
  }

  paintCursor([x, y]) {
    for (const [colour, width] of [["#fff", 4], ["#1d2033", 1.6]]) {
      this.line([x - 14, y], [x - 4, y], colour, width); this.line([x + 4, y], [x + 14, y], colour, width);
      this.line([x, y - 14], [x, y - 4], colour, width); this.line([x, y + 4], [x, y + 14], colour, width);
    }
  }

  line(a, b, colour, width, dash = []) {
    const c = this.context;
    c.beginPath(); c.setLineDash(dash); c.moveTo(...a); c.lineTo(...b); c.strokeStyle = colour; c.lineWidth = width; c.lineCap = "round"; c.stroke(); c.setLineDash([]);
  }
  ring(x, y, radius, colour, width) {
    const c = this.context;
    c.beginPath(); c.arc(x, y, radius, 0, 7); c.strokeStyle = colour; c.lineWidth = width; c.stroke();
  }

  // --- pointers ---

  at(event) { const box = this.canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; }

  find(x, y) {
    let found = null, best = REACH * this.unit;
    for (const handle of this.handles) for (const end of ["target", "position"]) {
      const [hx, hy] = this.toScreen(handle[end]);
      const distance = Math.hypot(hx - x, hy - y);
      if (distance < best) { best = distance; found = { handle, end }; }
    }
    return found;
  }

  onpointerdown(event) {
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const [x, y] = this.at(event);
    this.pointers.set(event.pointerId, [x, y]);
    this.cursor = null;
    if (this.pointers.size === 2 && this.grip?.first) this.cancel(); // the first finger put no point
    if (this.pointers.size === 2) { this.grip = { kind: "pinch", span: this.span() }; return; }
    const face = this.toFace(x, y);
    const pans = event.button === 1 || this.tool === "hand" || event.altKey || (this.whole && this.compareAt === null);
    if (pans) { this.grip = { kind: "pan", x, y }; return; }
    if (event.button !== 0) return;
    if (this.compareAt !== null) { this.grip = { kind: "cut" }; this.cutAt(x); return; }
    if (this.tool !== "point") { this.grip = { kind: "brush" }; this.stroke(face); return; }
    const found = this.pending ? null : this.find(x, y);
    if (found) {
      this.choose(found.handle.id, found.end);
      this.grip = { kind: "move", id: found.handle.id, end: found.end, moved: false };
    } else if (this.isOn(face)) {
      this.grip = { kind: "place", x, y, first: this.pending === null };
      if (this.pending === null) { this.pending = face; this.tell("pending"); }
      this.pointer = face; this.draw();
    }
  }

  isOn([x, y]) { return x >= 0 && y >= 0 && x <= this.size[0] && y <= this.size[1]; }

  onpointermove(event) {
    const [x, y] = this.at(event);
    const last = this.pointers.get(event.pointerId);
    if (last) this.pointers.set(event.pointerId, [x, y]);
    this.pointer = this.inside(this.toFace(x, y));
    const grip = this.grip;
    if (grip?.kind === "pinch" && this.pointers.size === 2) {
      const now = this.span();
      this.shift = [this.shift[0] + now.x - grip.span.x, this.shift[1] + now.y - grip.span.y];
      this.zoomBy(now.length / grip.span.length, [now.x, now.y]);
      grip.span = now;
    } else if (grip?.kind === "cut") {
      this.cutAt(x);
    } else if (grip?.kind === "pan") {
      this.shift = [this.shift[0] + x - grip.x, this.shift[1] + y - grip.y];
      grip.x = x; grip.y = y;
    } else if (grip?.kind === "brush") {
      for (const one of event.getCoalescedEvents?.() ?? [event]) this.stroke(this.toFace(...this.at(one)), one.pointerType === "pen" ? one.pressure : 1);
    } else if (grip?.kind === "move") {
      grip.moved = true;
      this.moveLocally(grip.id, grip.end, this.pointer);
      const now = performance.now();
      if (now - this.told > MOVE_EVERY && grip.end === "target") { this.told = now; this.tell("move", { id: grip.id, [grip.end]: this.pointer }); }
    }
    this.draw();
  }

  onpointerup(event) {
    this.pointers.delete(event.pointerId);
    const grip = this.grip;
    const face = this.inside(this.toFace(...this.at(event)));
    const [x, y] = this.at(event);
    if (grip?.kind === "place") {
      const far = Math.hypot(x - grip.x, y - grip.y) > CLICK;
      if (!grip.first || far) this.finish(face);
    } else if (grip?.kind === "move" && grip.moved) this.tell("move", { id: grip.id, [grip.end]: face });
    else if (grip?.kind === "brush") this.tell("mask");
    if (grip?.kind !== "pinch" || this.pointers.size === 0) this.grip = null;
    this.draw();
  }

  onpointercancel(event) { this.pointers.delete(event.pointerId); this.grip = null; this.pending = null; this.draw(); }
  onpointerleave() { if (!this.grip) { this.pointer = null; this.draw(); } }
  oncontextmenu(event) { event.preventDefault(); this.cancel(); }
  onblur() { this.cursor = null; this.draw(); }
  onwheel(event) { event.preventDefault(); this.zoomBy(Math.exp(-event.deltaY * 0.0016), this.at(event)); }

  span() {
    const [a, b] = [...this.pointers.values()];
    return { length: Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1])), x: (a[0] + b[0]) / 2, y: (a[1] + b[1]) / 2 };
  }

  finish(target) {
    const position = this.pending;
    this.pending = null;
    this.tell("add", { position, target });
  }

  cancel() { this.pending = null; this.grip = null; this.tell("pending"); this.draw(); }

  moveLocally(id, end, point) {
    const handle = this.handles.find((one) => one.id === id);
    if (!handle) return;
    const mirrored = [this.size[0] - point[0], point[1]];
    const partner = this.handles.find((one) => one.id === handle.partner);
    for (const [one, where] of [[handle, point], [partner, mirrored]]) {
      if (!one) continue;
      one[end] = where;
      if (end === "position") one.start = where;
      one.distance = Math.hypot(one.position[0] - one.target[0], one.position[1] - one.target[1]);
    }
  }

  choose(id, end = this.end) { this.chosen = id; this.end = end; this.tell("choose"); this.draw(); }

  // --- the mask ---

  brushRadius() { return (this.brush / 100) * this.size[0]; }

  // A stroke from the last dab to here, so that a quick hand leaves no gaps.
  stroke(to, strength = 1) {
    const from = this.grip?.last ?? to;
    const gap = Math.max(0.5, this.brushRadius() / 4);
    const count = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / gap));
    for (let i = 1; i <= count; i += 1) this.dab([from[0] + (to[0] - from[0]) * i / count, from[1] + (to[1] - from[1]) * i / count], strength);
    if (this.grip) this.grip.last = to;
  }

  dab([x, y], strength = 1) {
    const c = this.mask.getContext("2d");
    const radius = this.brushRadius();
    const soft = c.createRadialGradient(x, y, radius * 0.45, x, y, radius);
    soft.addColorStop(0, `rgba(24, 148, 96, ${strength})`);
    soft.addColorStop(1, "rgba(24, 148, 96, 0)");
    c.globalCompositeOperation = this.tool === "erase" ? "destination-out" : "source-over";
    c.fillStyle = soft;
    c.beginPath(); c.arc(x, y, radius, 0, 7); c.fill();
    c.globalCompositeOperation = "source-over";
    this.draw();
  }

  fillMask(keep) {
    const c = this.mask.getContext("2d");
    c.clearRect(0, 0, ...this.size);
    if (keep) { c.fillStyle = "rgb(24, 148, 96)"; c.fillRect(0, 0, ...this.size); }
    this.draw();
    this.tell("mask");
  }

  maskBytes() {
    const data = this.mask.getContext("2d").getImageData(0, 0, ...this.size).data;
    return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3]);
  }

  setMask(bytes) {
    if (this.grip?.kind === "brush") return;
    const c = this.mask.getContext("2d");
    const image = c.createImageData(...this.size);
    for (let i = 0; i < image.data.length / 4; i += 1) {
      image.data.set([24, 148, 96, bytes ? bytes[i] : 0], 4 * i);
    }
    c.putImageData(image, 0, 0);
    this.draw();
  }

  // --- keys ---

  onkeydown(event) {
    if (event.ctrlKey || event.metaKey || this.whole || this.compareAt !== null) return;
    const far = event.shiftKey ? 4 : 1;
    const unit = (this.size[0] / 64) * far * 0.5;
    const moves = { ArrowLeft: [-unit, 0], ArrowRight: [unit, 0], ArrowUp: [0, -unit], ArrowDown: [0, unit] };
    const handle = this.handles.find((one) => one.id === this.chosen);
    if (moves[event.key]) {
      event.preventDefault();
      const by = moves[event.key];
      if (this.cursor || this.tool !== "point" || !handle) {
        this.cursor = this.inside(add(this.cursor ?? this.size.map((side) => side / 2), by));
      } else {
        const point = this.inside(add(handle[this.end], by));
        this.moveLocally(handle.id, this.end, point);
        this.tell("move", { id: handle.id, [this.end]: point });
      }
      this.draw();
    } else if (event.key === "n" || event.key === "N") {
      this.cursor = this.size.map((side) => side / 2); this.pending = null; this.tell("pending"); this.draw();
    } else if (event.key === "Enter" && this.cursor) {
      event.preventDefault();
      if (this.tool !== "point") { this.dab(this.cursor); this.tell("mask"); }
      else if (this.pending) { this.finish(this.cursor); this.cursor = null; }
      else { this.pending = this.cursor; this.tell("pending"); }
      this.draw();
    } else if (event.key === "Escape") { this.cursor = null; this.cancel(); }
    else if ((event.key === "Delete" || event.key === "Backspace") && handle) { event.preventDefault(); this.tell("remove", { id: handle.id }); }
    else if (event.key === "t" && handle) this.choose(handle.id, this.end === "target" ? "position" : "target");
    else if ((event.key === "]" || event.key === "[") && this.handles.length) {
      const at = this.handles.indexOf(handle), by = event.key === "]" ? 1 : -1;
      this.choose(this.handles.at((at + by) % this.handles.length).id);
    }
  }

  tell(name, detail = {}) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}

function add([x, y], [dx, dy]) { return [x + dx, y + dy]; }
