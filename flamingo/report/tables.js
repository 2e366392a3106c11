"use strict";

// A click on the head of a column sorts by the ranks of its cells: ascending, descending, and as the page was written.
const NEXT_ORDER = { none: "ascending", ascending: "descending", descending: "none" };

// Cells without a rank have no value: they come last in both orders.
function inOrder(rows, column, order) {
  if (order === "none") {
    return rows;
  }
  const rank = (row) => Number(row.cells[column].dataset.rank);
  const sign = order === "ascending" ? 1 : -1;
  const ranked = rows.filter((row) => "rank" in row.cells[column].dataset);
  const others = rows.filter((row) => !("rank" in row.cells[column].dataset));
  return ranked.sort((one, other) => sign * (rank(one) - rank(other))).concat(others);
}

function makeSortable(table) {
  const rows = Array.from(table.tBodies[0].rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = NEXT_ORDER[head.getAttribute("aria-sort") || "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      table.tBodies[0].append(...inOrder(rows, column, order));
    });
  });
}

// The text of a cell, with blanks between its lines.
function textOf(cell) {
  return Array.from(cell.childNodes, (node) => node.textContent).join(" ");
}

// The field above a table hides the rows that lack one of its words.
function makeFilterable(table) {
  const rows = Array.from(table.tBodies[0].rows);
  const texts = rows.map((row) => Array.from(row.cells, textOf).join(" ").toLowerCase());
  const field = document.createElement("input");
  field.type = "search";
  const label = document.createElement("label");
  label.append("Filter rows ", field);
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  const box = document.createElement("div");
  box.className = "filter";
  box.append(label, count);
  table.parentElement.before(box);
  const filter = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    rows.forEach((row, number) => {
      row.hidden = !words.every((word) => texts[number].includes(word));
    });
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = `${shown} of ${rows.length} rows`;
  };
  field.addEventListener("input", filter);
  filter(); // a browser keeps the words when it loads a page again
}

document.querySelectorAll("table").forEach(makeSortable);
document.querySelectorAll("table[data-filter]").forEach(makeFilterable);
