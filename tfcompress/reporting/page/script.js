"use strict";
// Everything can be read without this: it sorts tables and shows one histogram at a time.
for (const table of document.querySelectorAll("table.sorted")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const original = [...body.rows];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const next = now === "descending" ? null : now === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = next ? [...original].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const difference = x - y;
        return sign * (Number.isNaN(difference) ? x.localeCompare(y) : difference);
      }) : original;
      body.append(...rows);
    });
  });
}
document.querySelectorAll(".histograms").forEach((group, number) => {
  const figures = [...group.children];
  if (figures.length < 2) return;
  const label = document.createElement("label");
  const select = document.createElement("select");
  label.htmlFor = select.id = "choice-" + number;
  label.textContent = "Layer";
  figures.forEach((figure, place) => select.add(new Option(figure.dataset.name, place)));
  select.add(new Option("all", "all"));
  const show = () => {
    const all = select.value === "all";
    group.classList.toggle("chosen", !all);
    figures.forEach((figure, place) => { figure.hidden = !all && place != select.value; });
  };
  select.addEventListener("change", show);
  const bar = document.createElement("div");
  bar.className = "choose";
  bar.append(label, select);
  group.before(bar);
  show();
});
