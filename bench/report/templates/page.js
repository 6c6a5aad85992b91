"use strict";
(function () {
  const page = document.documentElement;
  page.classList.add("js");
  const table = document.getElementById("measurements");
  const filters = Array.from(document.querySelectorAll(".ctl button"));

  // Columns start at a different place in rows that span several: walk by colSpan.
  function cellAt(row, column) {
    let start = 0;
    for (const cell of row.cells) {
      if (column < start + cell.colSpan) return cell.colSpan > 1 ? null : cell;
      start += cell.colSpan;
    }
    return null;
  }
  function keyOf(cell) {
    if (cell === null) return null;
    const given = cell.getAttribute("data-key");
    const text = given === null ? cell.textContent.trim() : given;
    if (text === "–" || text === "") return null;
    const value = Number(text.replace("−", "-").replace(/,/g, ""));
    return Number.isNaN(value) ? text : value;
  }
  function compare(a, b) {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  }
  function sortBy(head, column) {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    for (const body of table.tBodies) {
      const rows = Array.from(body.rows).slice(1).map((row) => [keyOf(cellAt(row, column)), row]);
      rows.sort((a, b) => {
        if (a[0] === null || b[0] === null) return (a[0] === null) - (b[0] === null);
        return sign * compare(a[0], b[0]);
      });
      rows.forEach((pair) => body.appendChild(pair[1]));
    }
  }
  table.querySelectorAll("thead tr:last-child th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => sortBy(head, column));
  });

  function show(button) {
    const wanted = button.dataset.show.split(" ");
    let count = 0;
    filters.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    for (const body of table.tBodies) {
      let shown = 0;
      for (const row of Array.from(body.rows).slice(1)) {
        row.hidden = wanted[0] !== "*" && !wanted.includes(row.dataset.status);
        shown += row.hidden ? 0 : 1;
      }
      body.hidden = shown === 0;
      count += shown;
    }
    document.getElementById("shown").textContent = count + " cells shown";
  }
  filters.forEach((button) => button.addEventListener("click", () => show(button)));

  // A link to a row that the filter hides shows all rows again.
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && (target.hidden || (target.parentElement && target.parentElement.hidden))) filters[0].click();
  }
  addEventListener("hashchange", reveal);

  const folded = Array.from(document.querySelectorAll("details"));
  let wereOpen = [];
  addEventListener("beforeprint", () => {
    wereOpen = folded.map((part) => part.open);
    folded.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => folded.forEach((part, index) => { part.open = wereOpen[index]; }));
})();
