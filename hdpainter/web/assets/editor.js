// The mask editor: a canvas over the photo's small copy. The photo is never drawn on the canvas, so only the mask
// can leave the page. `element` and `trigger` are gradio's: the component's element, and its events for Python.
const find = (selector) => element.querySelector(selector);
const editor = find(".hdp-editor"), photo = find(".hdp-photo"), canvas = find(".hdp-mask");
const cursor = find(".hdp-cursor"), size = find(".hdp-size input");
const context = canvas.getContext("2d", { willReadFrequently: true });
const HISTORY = 30; // masks to go back

let tool = "brush";
let undone = [], done = []; // the alpha of earlier masks
let at = null; // where the brush is, in pixels of the canvas
let stroke = false;
let announced;

function alpha() {
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const values = new Uint8Array(pixels.length / 4);
  for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i + 3];
  return values;
}

function setAlpha(values) {
  const image = context.createImageData(canvas.width, canvas.height);
  image.data.fill(255);
  for (let i = 0; i < values.length; i++) image.data[4 * i + 3] = values[i];
  context.putImageData(image, 0, 0);
}

function remember() { // before a change
  done.push(alpha());
  if (done.length > HISTORY) done.shift();
  undone = [];
}

function changed() {
  find("[data-action=undo]").disabled = !done.length;
  find("[data-action=redo]").disabled = !undone.length;
  clearTimeout(announced);
  announced = setTimeout(() => trigger("input"), 250);
}

function travel(from, to) {
  if (!from.length) return;
  to.push(alpha());
  setAlpha(from.pop());
  changed();
}

function drawMask(url) {
  return new Promise((ready) => {
    const image = new Image();
    image.onload = () => {
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.globalCompositeOperation = "source-over";
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      ready();
    };
    image.src = url;
  });
}

const actions = {
  undo: () => travel(done, undone),
  redo: () => travel(undone, done),
  invert: () => {
    remember();
    setAlpha(alpha().map((value) => 255 - value));
    changed();
  },
  clear: () => {
    remember();
    context.clearRect(0, 0, canvas.width, canvas.height);
    changed();
  },
};

function choose(name) {
  tool = name;
  for (const button of element.querySelectorAll("[data-tool]"))
    button.setAttribute("aria-pressed", String(button.dataset.tool === name));
}

function resize(factor) {
  size.value = Math.max(Number(size.min), Math.round(Number(size.value) * factor));
  showCursor();
}

function line(from, to) {
  context.globalCompositeOperation = tool === "brush" ? "source-over" : "destination-out";
  context.strokeStyle = context.fillStyle = "white";
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
  const box = canvas.getBoundingClientRect();
  const across = box.width / canvas.width, down = box.height / canvas.height;
  const width = Number(size.value) * across, height = Number(size.value) * down;
  Object.assign(cursor.style, {
    width: `${width}px`, height: `${height}px`,
    left: `${at.x * across - width / 2}px`, top: `${at.y * down - height / 2}px`,
  });
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  canvas.setPointerCapture(event.pointerId);
  remember();
  stroke = true;
  at = place(event);
  line(at, at);
  showCursor();
});
canvas.addEventListener("pointermove", (event) => {
  if (!event.isPrimary) return;
  const next = place(event);
  if (stroke)
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      const point = place(part);
      line(at, point);
      at = point;
    }
  at = next;
  showCursor();
});
const endStroke = () => {
  if (stroke) changed();
  stroke = false;
};
canvas.addEventListener("pointerup", endStroke);
canvas.addEventListener("pointercancel", () => { // a second finger came: it was a pinch, not a stroke
  if (stroke) setAlpha(done.pop());
  endStroke();
});
canvas.addEventListener("pointerleave", () => { if (!stroke) { at = null; showCursor(); } });

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
let space = false;
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!(event.key in ARROWS) && event.key !== " ") return;
  event.preventDefault();
  at = at ?? { x: canvas.width / 2, y: canvas.height / 2 };
  if (event.key === " " && !space) {
    space = true;
    remember();
    line(at, at);
  } else if (event.key in ARROWS) {
    const [dx, dy] = ARROWS[event.key];
    const step = Math.max(2, Number(size.value) / 4);
    const next = {
      x: Math.min(Math.max(at.x + dx * step, 0), canvas.width),
      y: Math.min(Math.max(at.y + dy * step, 0), canvas.height),
    };
    if (space) line(at, next);
    at = next;
  }
  showCursor();
});
const liftSpace = () => {
  if (space) changed();
  space = false;
};
canvas.addEventListener("keyup", (event) => { if (event.key === " ") liftSpace(); });
canvas.addEventListener("blur", () => { liftSpace(); at = null; showCursor(); });

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !element.contains(button)) return;
  if (button.dataset.tool) choose(button.dataset.tool);
  if (button.dataset.action) actions[button.dataset.action]();
});
size.addEventListener("input", showCursor);

// Shortcuts, unless somebody is typing.
const typing = (target) => target.closest?.("textarea, select, [contenteditable], input:not([type=range], [type=checkbox])");
const keys = {
  b: () => choose("brush"), e: () => choose("eraser"), "[": () => resize(1 / 1.25), "]": () => resize(1.25),
};
const wholeMask = { i: actions.invert, Delete: actions.clear }; // not while something else has the focus
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
// Before the others hear of it: an open list closes by the same key.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.fullscreenElement) return;
  if (!event.target.closest?.("[aria-expanded=true], dialog, [role=dialog]")) press("cancel");
}, true);

// A picture in the clipboard, or dropped anywhere, goes to the upload as a file from the disk does.
const fileInput = () => document.querySelector("#photo input[type=file]");
const pictureIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));
let opened = 0; // how often Python has answered with a photo or with none

async function until(condition) {
  for (let i = 0; i < 200 && !condition(); i++) await new Promise((ready) => setTimeout(ready, 50));
  return condition();
}

async function upload(picture) {
  if (!fileInput()) { // gradio has one only while there is no photo; the answer to the clearing must not come last
    const before = opened;
    document.querySelector("#photo .icon-button-wrapper button")?.click(); // its name is the browser's language's
    if (!(await until(() => fileInput() && opened > before))) return;
  }
  const transfer = new DataTransfer();
  transfer.items.add(picture);
  const input = fileInput();
  input.files = transfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
document.addEventListener("paste", (event) => {
  const picture = pictureIn(event.clipboardData);
  if (!picture) return;
  event.preventDefault();
  upload(picture);
});
// Without these the browser would leave the page and show the file.
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (event.defaultPrevented || !event.dataTransfer?.types.includes("Files")) return; // gradio took it, or it is text
  event.preventDefault();
  const picture = pictureIn(event.dataTransfer);
  if (picture) upload(picture);
});

// Gradio's before/after slider hears the mouse only: its handle gets the focus, and arrow keys drag it.
let firstDraft = "", lastKey = -Infinity;
document.addEventListener("keydown", () => (lastKey = performance.now()), true);
new MutationObserver(() => {
  showDrafts();
  for (const handle of document.querySelectorAll("#result [data-testid=slider]:not([tabindex])")) {
    handle.tabIndex = 0;
    handle.role = "slider";
    handle.ariaLabel = "before and after: arrow keys move the border";
    handle.ariaValueMin = 0;
    handle.ariaValueMax = 100;
    handle.addEventListener("keydown", drag);
    tellPlace(handle);
    new MutationObserver(() => tellPlace(handle)).observe(handle, { attributeFilter: ["style"] });
  }
}).observe(document.body, { childList: true, subtree: true });

// The newest job's drafts come first: a new first one is brought into view, unless somebody paints or types.
function showDrafts() {
  const first = document.querySelector("#drafts .thumbnail-item img")?.src ?? "";
  const busy = stroke || performance.now() - lastKey < 2000;
  if (first && first !== firstDraft && !busy)
    document.getElementById("drafts").scrollIntoView({ block: "nearest" });
  firstDraft = first;
}

function tellPlace(handle) {
  const image = document.querySelector("#result img");
  if (!image?.naturalHeight) return;
  const box = handle.getBoundingClientRect(), room = image.getBoundingClientRect();
  const width = Math.min(room.width, (room.height * image.naturalWidth) / image.naturalHeight); // it has margins inside
  handle.ariaValueNow = Math.round(50 + (100 * (box.x + box.width / 2 - room.x - room.width / 2)) / width);
}

function drag(event) {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  event.preventDefault();
  const handle = event.currentTarget.getBoundingClientRect();
  const step = event.currentTarget.parentElement.clientWidth / 20;
  const x = handle.x + handle.width / 2, y = handle.y + handle.height / 2;
  const shift = event.key === "ArrowLeft" ? -step : step;
  const send = (target, type, clientX) =>
    target.dispatchEvent(new MouseEvent(type, { bubbles: true, cancelable: true, view: window, clientX, clientY: y }));
  send(event.currentTarget, "mousedown", x);
  send(window, "mousemove", x + shift);
  send(window, "mouseup", x + shift);
}

// For the page's events: `open` a photo with or without a mask, `load` a mask, the `mask` as it is now.
window.hdpainter = {
  async open(shown) {
    opened += 1;
    editor.hidden = !shown;
    document.body.classList.toggle("hdp-has-photo", Boolean(shown));
    if (!shown) return;
    photo.src = shown.photo;
    find(".hdp-stage").style.setProperty("--ratio", shown.width / shown.height);
    find(".hdp-stage").style.setProperty("--width", `${shown.width}px`);
    canvas.width = shown.width;
    canvas.height = shown.height;
    const longer = Math.max(shown.width, shown.height);
    size.max = Math.round(longer / 2);
    size.value = Math.max(4, Math.round(longer / 14));
    done = [];
    undone = [];
    if (shown.mask) await drawMask(shown.mask);
    changed();
  },
  async load(url) {
    if (!url) return;
    remember();
    await drawMask(url);
    changed();
  },
  mask: () => (editor.hidden ? "" : canvas.toDataURL("image/png")),
};
