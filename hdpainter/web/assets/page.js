// The page around the editor, in one scope with editor.js: keys, the clipboard, dropped files, the slider, what is kept.

// Before the others hear of it: an open list closes by the same key.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.fullscreenElement) return;
  if (!event.target.closest?.("[aria-expanded=true], dialog, [role=dialog]")) press("cancel");
}, true);

// A picture in the clipboard, or dropped anywhere, goes to the upload as a file from the disk does.
const fileInput = () => document.querySelector("#photo input[type=file]");
const pictureIn = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/"));

async function upload(picture) {
  for (let i = 0; i < 200 && !fileInput(); i++) // gradio has none while it takes another
    await new Promise((ready) => setTimeout(ready, 50));
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
  const busy = stroke !== null || performance.now() - lastKey < 2000;
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

// What a model knows: a click puts it into the prompt.
document.addEventListener("click", (event) => {
  const chip = event.target.closest?.("#known [data-prompt]"), prompt = document.querySelector("#prompt textarea");
  if (!chip || !prompt) return;
  prompt.value = chip.dataset.prompt;
  prompt.dispatchEvent(new Event("input", { bubbles: true }));
});

// For the page's events: `open` a photo with or without a mask, `load` a mask, the `mask` as it is now, `choose` another
// photo, `keep` the form's values over a reload.
let saved = JSON.parse(sessionStorage.getItem("hdpainter") ?? '["", null]');
const save = () => sessionStorage.setItem("hdpainter", JSON.stringify(saved));
window.hdpainter = {
  async open(shown) {
    if (!shown) return; // it was no picture: the one before stays
    document.body.classList.add("hdp-has-photo");
    document.body.classList.remove("hdp-choosing");
    saved[0] = shown.token;
    save();
    await show(shown);
  },
  async load(url) {
    if (!url) return;
    await drawMask(url);
    commit(whole());
  },
  mask: async () => (editor.hidden ? "" : dataUrl(await encoded())),
  soften,
  choose: () => document.body.classList.toggle("hdp-choosing"),
  keep(values) {
    saved[1] = values;
    save();
  },
};
