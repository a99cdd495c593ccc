/* What switching off each head does: a grid of blocks and heads for each error. */

const EFFECTS = [
  { key: "rotation_effect", title: "Rotation error", unit: "degrees", show: (v) => `${signed(v, 1)}°` },
  { key: "shape_effect", title: "Shape error (after Sim(3))", unit: "pair's unit", show: (v) => signed(v, 3) },
];

function effects(root) {
  const every = DATA.heads.filter((row) => row.rotation_effect !== null);
  root.hidden = every.length === 0;
  for (const view of OTHERS) {
    const rows = every.filter((row) => row.view === view + 1);
    if (rows.length) effectsOf(root, view, rows);
  }
}

/** The grids of one view. */
function effectsOf(root, view, rows) {
  const blocks = [...new Set(rows.map((row) => row.block))];
  const names = [...new Set(rows.map((row) => row.head))];
  for (const { key, title, unit, show } of EFFECTS) {
    const most = Math.max(...rows.map((row) => Math.abs(row[key] ?? 0))) || 1;
    const body = element("tbody", {}, ...blocks.map((block) =>
      element("tr", {}, element("th", { scope: "row", textContent: `block ${block}` }), ...rows.filter((row) => row.block === block).map((row) => {
        const value = row[key];
        const button = element("button", { type: "button", textContent: value === null ? "–" : show(value), "aria-label": `Show block ${block}, head ${row.head}` });
        const cell = element("td", { className: value > 0 ? "worse" : "better" }, button);
        cell.style.setProperty("--share", Math.abs(value ?? 0) / most);
        button.addEventListener("click", () => {
          choice.set({ view, other: 0, block, head: row.head, patch: choice.view === view ? choice.patch : middlePatch(view) });
          document.getElementById("attention").scrollIntoView({ behavior: "auto" });
        });
        return cell;
      }))));
    const head = element("thead", {}, element("tr", {}, element("td"), ...names.map((name) => element("th", { scope: "col", textContent: `head ${name}` }))));
    const caption = element("caption", {}, element("b", { textContent: title + ofView(view) }), ` ${unit}`);
    root.querySelector(".grids").append(element("div", { className: "wide" }, element("table", {}, caption, head, body)));
  }
}
