"use strict";
(() => {
  const study = JSON.parse(document.getElementById("data").textContent);
  const methods = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(study.methods), (c) => c.charCodeAt(0))));
  const $ = (selector) => document.querySelector(selector);
  const KEY = `study-${study.id}`;
  const hex = () => crypto.getRandomValues(new Uint32Array(1))[0].toString(16).padStart(8, "0");

  // What is known of this rater: kept after each choice, so that the page can be closed at any moment.
  let state = null;
  const load = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY));
      if (kept && typeof kept.rater === "string" && Array.isArray(kept.answers)) state = kept;
    } catch { /* nothing is kept, or not for us */ }
  };
  const keep = () => {
    try {
      localStorage.setItem(KEY, JSON.stringify(state));
    } catch {
      $("#trouble").textContent = "This browser keeps nothing for this page: do not close it before you have saved the file.";
      $("#trouble").hidden = false;
    }
  };

  // Order and sides follow from the rater's number, so that they are the same when the page is opened again.
  const randomFrom = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const trialsOf = (rater) => {
    const random = randomFrom(parseInt(rater.slice(0, 8), 16));
    return study.questions.flatMap((_, question) => {
      const trials = study.samples.flatMap((_, sample) =>
        study.pairs.map(([a, b]) => (random() < 0.5 ? {question, sample, left: a, right: b} : {question, sample, left: b, right: a})));
      for (let i = trials.length - 1; i > 0; i -= 1) {
        const j = Math.floor(random() * (i + 1));
        [trials[i], trials[j]] = [trials[j], trials[i]];
      }
      return trials;
    });
  };
  let trials = [], shownAt = 0;

  const only = (name) => ["welcome", "trial", "end"].forEach((id) => { $(`#${id}`).hidden = id !== name; });

  const show = () => {
    const done = state.answers.length;
    if (done >= trials.length) {
      only("end");
      $("#end h1").focus();
      return;
    }
    const {question, sample, left, right} = trials[done];
    const about = study.samples[sample];
    only("trial");
    $("#step").textContent = `Choice ${done + 1} of ${trials.length}`;
    $("#question").textContent = study.questions[question].text.replace("{prompt}", () => about.prompt);
    $("#input").src = about.input;
    $("#input").alt = "the photo, with the outline of the part that was filled";
    const [first, second] = document.querySelectorAll("#pair img");
    first.src = about.results[left];
    second.src = about.results[right];
    Object.assign($("#progress"), {max: trials.length, value: done});
    $("#back").disabled = done === 0;
    $("#question").focus({preventScroll: true});
    shownAt = performance.now();
  };

  const choose = (choice) => {
    const {question, sample, left, right} = trials[state.answers.length];
    state.answers.push({
      question: study.questions[question].key,
      sample: study.samples[sample].index,
      left: methods[left],
      right: methods[right],
      choice,
      seconds: Math.round((performance.now() - shownAt) / 100) / 10,
    });
    keep();
    show();
  };

  const back = () => {
    if (!state.answers.length) return;
    state.answers.pop();
    keep();
    show();
  };

  const save = () => {
    const result = {study: study.id, rater: state.rater, name: state.name, complete: state.answers.length === trials.length, answers: state.answers};
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(result, null, 1)}\n`], {type: "application/json"}));
    link.download = `choices-${state.rater}.json`;
    link.click();
    $("#saved").textContent = `${link.download} is in your downloads.`;
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  $("#begin").addEventListener("submit", (event) => {
    event.preventDefault();
    state = {rater: hex() + hex(), name: event.target.elements.name.value.trim(), answers: []};
    trials = trialsOf(state.rater);
    keep();
    show();
  });
  document.querySelectorAll("[data-choice]").forEach((button) => button.addEventListener("click", () => choose(button.dataset.choice)));
  $("#back").addEventListener("click", back);
  $("#revise").addEventListener("click", back);
  $("#save").addEventListener("click", save);
  $("#again").addEventListener("click", () => {
    if (!confirm("Your choices are deleted from this browser. Is the file saved?")) return;
    localStorage.removeItem(KEY);
    state = null;
    $("#saved").textContent = "";
    $("#begin").reset();
    only("welcome");
  });

  const KEYS = {ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), ArrowDown: () => choose("tie"), Backspace: back};
  document.addEventListener("keydown", (event) => {
    // A key that is held down is one choice, not ten.
    if ($("#trial").hidden || event.repeat || event.ctrlKey || event.altKey || event.metaKey || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  load();
  if (state) {
    trials = trialsOf(state.rater);
    show();
  } else {
    only("welcome");
  }
})();
