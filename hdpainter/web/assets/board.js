// The drafts: a click tells Python which one.
element.addEventListener("click", (event) => {
  const draft = event.target.closest("[data-draft]");
  if (draft) trigger("select", { draft: Number(draft.dataset.draft) });
});
