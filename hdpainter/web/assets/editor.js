// The mask editor: a canvas over the photo, of the photo's own resolution. The photo is never drawn on the canvas, so
// only the mask can leave the page. `element` and `trigger` are gradio's: the component's element, its events for Python.
const find = (selector) => element.querySelector(selector);
const editor = find(".hdp-editor"), stage = find(".hdp-stage"), view = find(".hdp-view");
const photo = find(".hdp-photo"), canvas = find(".hdp-mask"), cursor = find(".hdp-cursor");
const size = find(".hdp-size input"), ink = find(".hdp-ink input"), outline = find(".hdp-outline");
const context = canvas.getContext("2d", { willReadFrequently: true });
const HISTORY = 96 * 2 ** 20; // bytes of what can be undone

let tool = "brush";
let alpha = new Uint8Array(0); // of the mask after the last step
let undone = [], done = []; // steps: a box of the mask, and its alpha before
let at = null; // where the brush is, in pixels of the canvas
let stroke = null; // what is being painted
let announced;

// Steps and their history: only the box that a step has changed is kept.
const whole = () => ({ x: 0, y: 0, width: canvas.width, height: canvas.height });

function clip(box) {
  const x = Math.max(Math.floor(box.x), 0), y = Math.max(Math.floor(box.y), 0);
  const width = Math.min(Math.ceil(box.x + box.width), canvas.width) - x;
  const height = Math.min(Math.ceil(box.y + box.height), canvas.height) - y;
  return { x, y, width: Math.max(width, 0), height: Math.max(height, 0) };
}

function kept({ x, y, width, height }) {
  const values = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const start = (y + row) * canvas.width + x;
    values.set(alpha.subarray(start, start + width), row * width);
  }
  return values;
}

function keep({ x, y, width, height }, values) {
  for (let row = 0; row < height; row++)
    alpha.set(values.subarray(row * width, (row + 1) * width), (y + row) * canvas.width + x);
}

function painted({ x, y, width, height }) {
  const pixels = context.getImageData(x, y, width, height).data;
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i + 3];
  return values;
}

function paintBack(box, values) {
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(ink.value.slice(i, i + 2), 16));
  const image = context.createImageData(box.width, box.height);
  for (let i = 0; i < values.length; i++)
    if (values[i]) image.data.set([red, green, blue, values[i]], 4 * i);
  context.putImageData(image, box.x, box.y);
  keep(box, values);
}

function commit(changedBox) { // after a change within the box
  const box = clip(changedBox);
  if (!box.width || !box.height) return;
  done.push({ box, before: kept(box) });
  keep(box, painted(box));
  undone = [];
  let bytes = done.reduce((sum, step) => sum + step.before.length, 0);
  while (bytes > HISTORY && done.length > 1) bytes -= done.shift().before.length;
  changed();
}

function changed() {
  find("[data-action=undo]").disabled = !done.length;
  find("[data-action=redo]").disabled = !undone.length;
  clearTimeout(announced);
  announced = setTimeout(() => trigger("input"), 250);
}

function travel(from, to) {
  const step = from.pop();
  if (!step) return;
  to.push({ box: step.box, before: kept(step.box) });
  paintBack(step.box, step.before);
  changed();
}

// Painting.
function compose(operation) {
  context.globalCompositeOperation = operation;
  context.fillStyle = context.strokeStyle = ink.value;
}

function recolour() { // alpha stays
  compose("source-in");
  context.fillRect(0, 0, canvas.width, canvas.height);
}

async function drawMask(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  recolour();
}

function spread(operation, picture) { // by one step in all directions
  const reach = Math.max(1, Math.round(Math.max(canvas.width, canvas.height) / 200));
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const brush = copy.getContext("2d");
  if (picture === "rest") {
    brush.fillRect(0, 0, copy.width, copy.height);
    brush.globalCompositeOperation = "destination-out";
  }
  brush.drawImage(canvas, 0, 0);
  context.globalCompositeOperation = operation;
  for (let i = 0; i < 16; i++)
    context.drawImage(copy, reach * Math.cos((i * Math.PI) / 8), reach * Math.sin((i * Math.PI) / 8));
  commit(whole());
}

const actions = {
  undo: () => travel(done, undone),
  redo: () => travel(undone, done),
  grow: () => spread("source-over", "mask"),
  shrink: () => spread("destination-out", "rest"),
  invert: () => {
    compose("xor");
    context.fillRect(0, 0, canvas.width, canvas.height);
    commit(whole());
  },
  clear: () => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    commit(whole());
  },
  in: () => zoomAt(middle(), 1.5),
  out: () => zoomAt(middle(), 1 / 1.5),
  fit: () => look({ scale: 1, x: 0, y: 0 }),
};

function choose(name) {
  tool = name;
  for (const button of element.querySelectorAll("[data-tool]"))
    button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  stage.classList.toggle("hdp-pointing", name === "box" || name === "lasso");
}

function resize(factor) {
  size.value = Math.max(Number(size.min), Math.round(Number(size.value) * factor));
  showCursor();
}

const outlines = () => (stroke.tool === "box" ? corners(stroke.points[0], at) : stroke.points);
const corners = (a, b) => [a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }];

function begin(point, erase) {
  at = point;
  stroke = { tool, erase: erase || tool === "eraser", points: [point], box: { ...point, width: 0, height: 0 } };
  extend(point);
}

function extend(point) {
  const last = stroke.points.at(-1);
  at = point;
  stroke.points.push(point);
  const margin = stroke.tool === "box" || stroke.tool === "lasso" ? 1 : Number(size.value) / 2 + 1;
  const { box } = stroke, left = Math.min(box.x, point.x - margin), top = Math.min(box.y, point.y - margin);
  const right = Math.max(box.x + box.width, point.x + margin), bottom = Math.max(box.y + box.height, point.y + margin);
  stroke.box = { x: left, y: top, width: right - left, height: bottom - top };
  if (margin > 1) line(last, point);
  else for (const shape of outline.children)
    shape.setAttribute("points", outlines().map(({ x, y }) => `${x},${y}`).join(" "));
}

function line(from, to) {
  compose(stroke.erase ? "destination-out" : "source-over");
  context.lineWidth = Number(size.value);
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
  context.stroke();
  context.beginPath(); // a line of no length would leave nothing
  context.arc(to.x, to.y, context.lineWidth / 2, 0, 2 * Math.PI);
  context.fill();
}

function end() {
  if (!stroke) return;
  if (stroke.tool === "box" || stroke.tool === "lasso") {
    compose(stroke.erase ? "destination-out" : "source-over");
    context.beginPath();
    for (const { x, y } of outlines()) context.lineTo(x, y);
    context.fill();
  }
  const { box } = stroke;
  finishStroke();
  commit(box);
}

function abort() { // it was no stroke
  if (!stroke) return;
  const box = clip(stroke.box);
  finishStroke();
  if (box.width && box.height) paintBack(box, kept(box));
}

function finishStroke() {
  stroke = null;
  for (const shape of outline.children) shape.removeAttribute("points");
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

function showCursor() {
  cursor.hidden = !at;
  if (!at) return;
  const across = canvas.clientWidth / canvas.width, down = canvas.clientHeight / canvas.height;
  const width = Number(size.value) * across, height = Number(size.value) * down;
  Object.assign(cursor.style, {
    width: `${width}px`, height: `${height}px`,
    left: `${at.x * across - width / 2}px`, top: `${at.y * down - height / 2}px`,
  });
}

// Looking closer: the view is scaled and moved within the stage.
let eye = { scale: 1, x: 0, y: 0 };
let closer = null; // a larger copy of the photo

function look({ scale, x, y }) {
  const most = Math.max(4, (8 * canvas.width) / stage.clientWidth);
  scale = Math.min(Math.max(scale, 1), most);
  const room = (length, value) => Math.min(Math.max(value, length * (1 - scale)), 0);
  eye = { scale, x: room(stage.clientWidth, x), y: room(stage.clientHeight, y) };
  view.style.transform = `translate(${eye.x}px, ${eye.y}px) scale(${scale})`;
  view.style.setProperty("--zoom", scale);
  find(".hdp-zoom output").textContent = `${Math.round(100 * scale)}%`;
  if (scale > 1.3 && closer) [photo.src, closer] = [closer, null];
}

// The soft edge that the joining will have: so many pixels of the photo around the mask; 0: none.
let rim = 0;

function soften(pixels = rim) {
  rim = pixels;
  editor.classList.toggle("hdp-soft", rim > 0);
  const scale = canvas.width ? canvas.clientWidth / canvas.width : 0;
  find("#hdp-rim feMorphology").setAttribute("radius", rim * scale);
}
new ResizeObserver(() => soften()).observe(canvas);

function zoomAt(point, factor, from = point) { // what is seen at `from`, a point of the window, is then at `point`
  const box = stage.getBoundingClientRect();
  const most = Math.max(4, (8 * canvas.width) / stage.clientWidth);
  const scale = Math.min(Math.max(eye.scale * factor, 1), most), by = scale / eye.scale;
  const moved = (to, place, start, offset) => to - start - (place - start - offset) * by;
  look({ scale, x: moved(point.x, from.x, box.left, eye.x), y: moved(point.y, from.y, box.top, eye.y) });
}

function middle() {
  const box = stage.getBoundingClientRect();
  return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
}

function follow() { // the brush stays in view
  const x = at.x * (canvas.clientWidth / canvas.width) * eye.scale + eye.x;
  const y = at.y * (canvas.clientHeight / canvas.height) * eye.scale + eye.y;
  const over = (value, length) => Math.min(value, 0) + Math.max(value - length, 0);
  look({ ...eye, x: eye.x - over(x, stage.clientWidth), y: eye.y - over(y, stage.clientHeight) });
}

// Mouse, pen and fingers.
const fingers = new Map(); // by pointer, where it is in the window
let space = false, byKeys = false, hovering = false, moving = false;

const apart = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);
const between = (one, other) => ({ x: (one.x + other.x) / 2, y: (one.y + other.y) / 2 });

canvas.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  byKeys = false;
  if (event.button > 1) return;
  canvas.setPointerCapture(event.pointerId);
  if (fingers.size > 1) abort();
  moving = fingers.size > 1 || event.button === 1 || space;
  if (event.button === 1) event.preventDefault();
  if (!moving) begin(place(event), event.altKey);
  showCursor();
});
canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId), now = { x: event.clientX, y: event.clientY };
  hovering = true;
  if (before) fingers.set(event.pointerId, now);
  if (before && moving) {
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) zoomAt(between(now, other), apart(now, other) / Math.max(apart(before, other), 1), between(before, other));
    else look({ ...eye, x: eye.x + now.x - before.x, y: eye.y + now.y - before.y });
  } else if (stroke && before) {
    const parts = event.getCoalescedEvents?.() ?? [];
    for (const part of parts.length ? parts : [event]) extend(place(part));
  } else if (!byKeys || event.movementX || event.movementY) {
    byKeys = false;
    at = place(event);
  }
  showCursor();
});
const lift = (event) => {
  fingers.delete(event.pointerId);
  if (!fingers.size) moving = false;
};
canvas.addEventListener("pointerup", (event) => {
  lift(event);
  end();
});
canvas.addEventListener("pointercancel", (event) => {
  lift(event);
  abort();
});
canvas.addEventListener("pointerleave", () => {
  hovering = false;
  if (!stroke) at = null;
  showCursor();
});
stage.addEventListener("wheel", (event) => {
  if (event.deltaY > 0 && eye.scale === 1) return; // the page may scroll
  event.preventDefault();
  zoomAt({ x: event.clientX, y: event.clientY }, Math.exp(-event.deltaY / 400));
}, { passive: false });

// Keys on the mask: arrows move the brush, space paints; under a mouse that moved last, space drags the photo.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!(event.key in ARROWS) && event.key !== " ") return;
  event.preventDefault();
  if (event.key === " " && hovering && !byKeys) return;
  byKeys = true;
  at = at ?? { x: canvas.width / 2, y: canvas.height / 2 };
  if (event.key === " ") {
    if (!stroke) begin(at, false);
  } else {
    const [dx, dy] = ARROWS[event.key];
    const step = Math.max(2, Number(size.value) / 4);
    const next = {
      x: Math.min(Math.max(at.x + dx * step, 0), canvas.width),
      y: Math.min(Math.max(at.y + dy * step, 0), canvas.height),
    };
    if (stroke) extend(next);
    at = next;
    follow();
  }
  showCursor();
});
canvas.addEventListener("keyup", (event) => { if (event.key === " " && byKeys) end(); });
canvas.addEventListener("blur", () => {
  if (byKeys) end();
  at = null;
  showCursor();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || !hovering || byKeys || typing(event.target)) return;
  event.preventDefault();
  space = true;
  stage.classList.add("hdp-dragging");
});
document.addEventListener("keyup", (event) => {
  if (event.key !== " ") return;
  space = false;
  stage.classList.remove("hdp-dragging");
});

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !element.contains(button)) return;
  if (button.dataset.tool) choose(button.dataset.tool);
  if (button.dataset.action) actions[button.dataset.action]();
});
size.addEventListener("input", showCursor);
ink.addEventListener("input", recolour);

// Shortcuts, unless somebody is typing.
const typing = (target) => target.closest?.("textarea, select, [contenteditable], input:not([type=range], [type=checkbox], [type=color])");
const keys = {
  b: () => choose("brush"), e: () => choose("eraser"), r: () => choose("box"), l: () => choose("lasso"),
  "[": () => resize(1 / 1.25), "]": () => resize(1.25), "+": actions.in, "-": actions.out, 0: actions.fit,
};
const wholeMask = { i: actions.invert, g: actions.grow, h: actions.shrink, Delete: actions.clear }; // not while something else has the focus
const press = (id) => document.getElementById(id)?.click();
document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key === "Enter") return event.repeat || press("run");
  if (editor.hidden || typing(event.target)) return;
  if (command && event.key.toLowerCase() === "z") {
    event.preventDefault();
    actions[event.shiftKey ? "redo" : "undo"]();
  } else if (!command && !event.altKey) {
    keys[event.key]?.();
    if (event.target === document.body || event.target.closest?.("#editor, #mask-file")) wholeMask[event.key]?.();
  }
});

const dataUrl = (blob) => new Promise((ready) => {
  const reader = new FileReader();
  reader.onload = () => ready(reader.result);
  reader.readAsDataURL(blob);
});
const encoded = () => new Promise((ready) => canvas.toBlob(ready, "image/png"));

async function show(shown) { // a photo, with or without a mask
  editor.hidden = false;
  photo.src = shown.photo;
  closer = shown.view;
  stage.style.setProperty("--ratio", shown.width / shown.height);
  outline.setAttribute("viewBox", `0 0 ${shown.width} ${shown.height}`);
  canvas.width = shown.width;
  canvas.height = shown.height;
  const longer = Math.max(shown.width, shown.height);
  size.max = Math.round(longer / 2);
  size.value = Math.max(4, Math.round(longer / 14));
  done = [];
  undone = [];
  stroke = null;
  if (shown.mask) await drawMask(shown.mask);
  alpha = new Uint8Array(canvas.width * canvas.height);
  if (shown.mask) keep(whole(), painted(whole()));
  look({ scale: 1, x: 0, y: 0 });
  soften();
  changed();
}
