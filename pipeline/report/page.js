"use strict";
// The page is complete without this: it makes tables sortable, and names the mark of a chart under the pointer or the arrow keys.
for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2 || table.closest(".across, .pairs")) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, head, column));
  });
}

function sort(table, head, column) {
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const missing = (row) => head.classList.contains("number") && !("sort" in row.cells[column].dataset);
  const compare = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
  const values = (a, b) => (head.classList.contains("number") ? key(a) - key(b) : compare(a, b)) * (ascending ? 1 : -1);
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : values(a, b))); // what was not measured stays last
  table.tBodies[0].append(...rows);
}

const tip = document.getElementById("tip");
function show(mark) {
  if (mark === null) return void (tip.hidden = true);
  const box = mark.getBoundingClientRect();
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
}

for (const svg of document.querySelectorAll(".chart svg")) {
  const marks = [...svg.querySelectorAll(".role-mark [aria-label]")];
  let place = -1;
  svg.tabIndex = 0;
  svg.addEventListener("pointermove", (event) => show(event.target.closest(".role-mark [aria-label]")));
  svg.addEventListener("pointerleave", () => show(null));
  svg.addEventListener("blur", () => show(null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") show(null);
    if (!step || !marks.length) return;
    event.preventDefault();
    place = (place + step + marks.length) % marks.length;
    show(marks[place]);
  });
}
addEventListener("scroll", () => show(null), { passive: true });
// A table that goes on beyond its frame says so.
function mark() {
  for (const frame of document.querySelectorAll(".scroll")) frame.classList.toggle("wider", frame.scrollWidth > frame.clientWidth + 1);
}
mark();
addEventListener("resize", mark);
document.addEventListener("toggle", mark, true);
