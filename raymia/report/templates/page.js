"use strict";
// Tables sort by the button in a column's heading; rows are filtered by the access that is ticked.
const collator = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = heading.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") !== "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === "" || b === "") return (a === "") - (b === "");  // what is not known stays last
        return (descending ? -1 : 1) * (isNaN(a) || isNaN(b) ? collator.compare(a, b) : a - b);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
for (const filter of document.querySelectorAll("fieldset.filter")) {
  const apply = () => {
    const shown = new Set([...filter.querySelectorAll("input:checked")].map((box) => box.value));
    const rows = filter.parentElement.querySelectorAll("tbody tr[data-access]");
    let count = 0;
    for (const row of rows) {
      row.hidden = !shown.has(row.dataset.access);
      count += !row.hidden;
    }
    filter.querySelector("output").textContent = `${count} of ${rows.length} signals shown`;
  };
  filter.addEventListener("change", apply);
  apply();
}
