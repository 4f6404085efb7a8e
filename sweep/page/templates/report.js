// Draws the figures in the theme's colors, sorts the tables and copies one. No network, no eval, no inline handlers.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const darkColors = JSON.parse(document.getElementById("dark").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  // A4 less its margins at 96 px per inch, and what the print style makes of the columns.
  const printWidthPx = (node) => (node.closest(".triple") ? 215 : node.closest(".pair") ? 330 : 680);
  let printing = false;

  const recolored = (value) => {
    if (typeof value === "string") return darkColors[value] ?? value;
    if (Array.isArray(value)) return value.map(recolored);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, recolored(item)]));
    }
    return value;
  };

  const draw = (node) => {
    const source = figures[node.dataset.figure];
    const { data, layout } = dark.matches && !printing ? recolored(source) : structuredClone(source);
    layout.height = source.height;
    layout.autosize = true;
    if (printing) layout.width = printWidthPx(node);
    // Beside the names of the rows a phone has room for three numbers.
    if (layout.xaxis.nticks && node.clientWidth < 480) layout.xaxis.nticks = 3;
    // A finger scrolls the page; a mouse may zoom, and a double click undoes it.
    layout.dragmode = touch.matches ? false : "zoom";
    return Plotly.react(node, data, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  };

  const nodes = [...document.querySelectorAll("[data-figure]")];
  const drawAll = () => nodes.map(draw);

  // One at a time, so that the page can be read and scrolled meanwhile.
  const drawNext = (position) => {
    if (position === nodes.length) {
      document.documentElement.dataset.drawn = String(nodes.length);
      return;
    }
    draw(nodes[position]);
    setTimeout(drawNext, 0, position + 1);
  };
  drawNext(0);
  dark.addEventListener("change", drawAll);

  let closed = [];
  addEventListener("beforeprint", () => {
    printing = true;
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((item) => { item.open = true; });
    drawAll();
  });
  addEventListener("afterprint", () => {
    printing = false;
    closed.forEach((item) => { item.open = false; });
    drawAll();
  });
  // A figure that was drawn while its section was closed has no width yet.
  document.querySelectorAll("details").forEach((item) =>
    item.addEventListener("toggle", () => item.querySelectorAll("[data-figure]").forEach(draw)));

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const raw = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(raw);
    return raw === "" ? null : Number.isNaN(number) ? raw : number;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.hidden = false;
    const status = button.parentElement.querySelector("[role=status]");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        status.textContent = "Copied.";
      } catch {
        // A browser that lets no page from disk write there still shows the text to be copied by hand.
        const area = document.createElement("textarea");
        area.readOnly = true;
        area.value = button.dataset.copy;
        area.rows = 8;
        area.setAttribute("aria-label", button.textContent);
        status.replaceChildren(area);
        area.select();
      }
    });
  });

  document.querySelectorAll("th button").forEach((button) => {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const table = header.closest("table");
      const column = header.cellIndex;
      const ascending = header.ariaSort ? header.ariaSort !== "ascending" : header.dataset.first !== "descending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row, column) }));
      // Empty cells stay at the end, whichever way the column is sorted.
      rows.sort((a, b) => (a.key === null) - (b.key === null)
        || (a.key === null ? 0 : ascending ? compare(a.key, b.key) : compare(b.key, a.key)));
      table.tBodies[0].append(...rows.map((item) => item.row));
    });
  });
})();
