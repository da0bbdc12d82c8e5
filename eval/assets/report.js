"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const {methods, ours, baseline, samples} = data;
  const byIndex = new Map(samples.map((sample) => [sample.index, sample]));
  const BATCH = 12;

  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };
  // A miniature's judgement is to be told from the real judge's wherever it is shown.
  const named = (key, word) => (data.mini.includes(key) ? `${word} (mini)` : word);
  const fixed = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

  // Cards

  const scores = (result) => {
    const lines = [];
    if (result.acc !== undefined) {
      const seen = result.label ? `; best: ${result.label}${result.score === undefined ? "" : `\u00a0${fixed(result.score)}`}` : "";
      lines.push(make("small", {className: result.acc ? "yes" : "no"}, `${result.acc ? "✓" : "✗"} ${named("acc", result.acc ? "detected" : "not detected")}${seen}`));
    }
    if (result.release !== undefined) {
      lines.push(make("small", {className: result.release ? "yes" : "no"}, `${result.release ? "✓" : "✗"} ${named("release", "acc_release")}`));
    }
    const words = [
      [["clip", "CLIP", 2], ["logit", "preference logit", 2], ["seam", "seam", 2]],
      [["psnr", "outside: PSNR", 1], ["change", "largest change", 0], ["lpips", "LPIPS", 4]],
      [["shift", "saturation: shift", 1], ["contrast", "contrast", 1]],
    ];
    words.forEach((line) => {
      const numbers = line.filter(([key]) => result[key] !== undefined);
      if (numbers.length) lines.push(make("small", {}, numbers.map(([key, word, digits]) => `${named(key, word)}\u00a0${fixed(result[key], digits)}`).join(", ")));
    });
    return lines;
  };

  const picturesOf = (sample) => [
    {label: "input and mask", src: sample.input, lines: []},
    ...methods.map((method, m) => {
      const result = sample.results[m];
      return {label: method.label, src: result && result.src, lines: result ? scores(result) : []};
    }),
  ];

  const card = (sample) => {
    const list = picturesOf(sample);
    const grid = make("div", {className: "pictures"});
    list.forEach((picture, i) => {
      const view = picture.src
        ? make("button", {type: "button", title: "Enlarge", onclick: () => viewer.show(sample, list, i)},
            make("img", {src: picture.src, alt: `${sample.prompt}: ${picture.label}`, loading: "lazy", decoding: "async"}))
        : make("div", {className: "absent"}, "no result");
      grid.append(make("figure", {}, view, make("figcaption", {}, picture.label, ...picture.lines)));
    });
    const was = sample.category === sample.prompt ? "" : `in place of ${sample.category}; `;
    const about = `${was}mask ${sample.share}% of the picture; sample ${sample.index}, ${sample.file}`;
    return make("article", {className: "card"}, make("h3", {}, sample.prompt), make("p", {className: "note"}, about), grid);
  };

  // The enlarged picture

  const viewer = (() => {
    const dialog = document.getElementById("viewer");
    const [image, text] = [dialog.querySelector("img"), dialog.querySelector("p")];
    let [sample, list, at] = [null, [], 0];
    const draw = () => {
      const {src, label} = list[at];
      Object.assign(image, {src, alt: `${sample.prompt}: ${label}`});
      text.textContent = `${sample.prompt}: ${label}`;
    };
    const step = (by) => {
      do at = (at + by + list.length) % list.length; while (!list[at].src);
      draw();
    };
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
      if (event.target.dataset.step) step(Number(event.target.dataset.step));
    });
    return {show: (...args) => { [sample, list, at] = args; draw(); dialog.showModal(); }};
  })();

  // Filters

  const has = (key) => samples.some((sample) => sample.results.some((result) => result && result[key] !== undefined));
  const against = (key, sign) => (result, base) =>
    Boolean(base) && result[key] !== undefined && base[key] !== undefined && sign * (result[key] - base[key]) > 0;
  const base = baseline === null ? "" : methods[baseline].label;
  const OUTCOMES = [
    ["any", true, () => true],
    [`succeeds: ${named("acc", "what was asked for is detected")}`, has("acc"), (result) => result.acc === 1],
    [`fails: ${named("acc", "not detected")}`, has("acc"), (result) => result.acc === 0],
    [named("acc", `succeeds where ${base} fails`), base && has("acc"), against("acc", 1)],
    [named("acc", `fails where ${base} succeeds`), base && has("acc"), against("acc", -1)],
    [named("logit", `preferred to ${base}`), base && has("logit"), against("logit", 1)],
    [named("logit", `${base} preferred`), base && has("logit"), against("logit", -1)],
    [`higher ${named("clip", "CLIP")} than ${base}`, base && has("clip"), against("clip", 1)],
    [`lower ${named("clip", "CLIP")} than ${base}`, base && has("clip"), against("clip", -1)],
  ].filter(([, there]) => there);
  const value = (key, sign) => (method) => (sample) => {
    const result = sample.results[method];
    return result && result[key] !== undefined ? sign * result[key] : Infinity;
  };
  const ORDERS = [
    ["as in the benchmark", true, () => (sample) => sample.index],
    [`method's ${named("clip", "CLIP")}, lowest first`, has("clip"), value("clip", 1)],
    [`method's ${named("clip", "CLIP")}, highest first`, has("clip"), value("clip", -1)],
    ["method's seam, strongest first", has("seam"), value("seam", -1)],
    ["mask area, largest first", true, () => (sample) => -sample.share],
  ].filter(([, there]) => there);

  const form = document.getElementById("filters");
  const cards = document.getElementById("cards");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  let [found, shown] = [[], 0];

  const options = (name, list) => form.elements[name].replaceChildren(...list.map(([v, text]) => make("option", {value: v}, text)));
  const tally = (key) => {
    const counts = new Map();
    samples.forEach((sample) => counts.set(sample[key], (counts.get(sample[key]) || 0) + 1));
    return [...counts].sort(([a], [b]) => String(a).localeCompare(b, "en", {numeric: true}));
  };
  const choices = (key) => [["", "all"], ...tally(key).map(([word, n]) => [word, `${word} (${n})`])];
  options("prompt", choices("prompt"));
  options("bin", choices("bin"));
  options("method", methods.map((method, m) => [m, method.label]));
  options("outcome", OUTCOMES.map(([text], i) => [i, text]));
  options("order", ORDERS.map(([text], i) => [i, text]));
  form.elements.method.value = String(ours ?? 0);
  [...form.elements.method.options].forEach((option, m) => { option.defaultSelected = m === (ours ?? 0); });
  form.hidden = false;

  const showMore = () => {
    cards.append(...found.slice(shown, shown + BATCH).map(card));
    shown = Math.min(shown + BATCH, found.length);
    more.hidden = shown === found.length;
  };
  const filter = () => {
    const chosen = Object.fromEntries(new FormData(form));
    const method = Number(chosen.method);
    const test = OUTCOMES[Number(chosen.outcome)][2];
    const rank = ORDERS[Number(chosen.order)][2](method);
    found = samples.filter((sample) =>
      (!chosen.prompt || sample.prompt === chosen.prompt) && (!chosen.bin || sample.bin === chosen.bin) &&
      (chosen.outcome === "0" || (sample.results[method] && test(sample.results[method], sample.results[baseline]))));
    found = found.map((sample) => [rank(sample), sample]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)).map(([, sample]) => sample);
    shown = 0;
    cards.replaceChildren();
    count.textContent = `${found.length} of ${samples.length} samples`;
    if (!found.length) cards.append(make("p", {className: "empty"}, "No sample is like that."));
    showMore();
  };
  form.addEventListener("change", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", showMore);
  new IntersectionObserver((entries) => { if (entries[0].isIntersecting && shown < found.length) showMore(); }, {rootMargin: "600px"}).observe(more);
  filter();

  // Failures

  const failures = document.getElementById("failures");
  if (!data.failures.length) failures.append(make("p", {className: "note"}, "None are known: there are no scores that tell."));
  data.failures.forEach((kind) => {
    const details = make("details", {}, make("summary", {}, `${kind.title} (${kind.indices.length} shown)`), make("p", {className: "note"}, kind.note));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 2) details.append(...kind.indices.map((index) => card(byIndex.get(index))));
    });
    failures.append(details);
  });
  const first = failures.querySelector("details");
  if (first) first.open = true;

  // Groups of a table's rows

  document.querySelectorAll("th[scope=rowgroup] button").forEach((button) => button.addEventListener("click", () => {
    button.ariaExpanded = String(!button.closest("tbody").classList.toggle("folded"));
  }));

  // Sorting by a click on a column's head

  document.querySelectorAll("table.sortable thead button").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const descending = head.ariaSort !== "descending";
    head.parentElement.querySelectorAll("th").forEach((other) => { other.ariaSort = "none"; });
    head.ariaSort = descending ? "descending" : "ascending";
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const sorted = [...body.rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
    body.append(...(descending ? sorted.reverse() : sorted));
  }));
})();
