/* What switching off each head does: a grid of blocks and heads for each error. */

const EFFECTS = [
  { key: "rotation_effect", title: "Rotation error", unit: "degrees", show: (v) => `${signed(v, 1)}°` },
  { key: "inner_shape_effect", title: "Inner-shape error", unit: "pair's unit", show: (v) => signed(v, 3) },
];

function effects(root) {
  const rows = DATA.heads.filter((row) => row.rotation_effect !== null);
  root.hidden = rows.length === 0;
  if (root.hidden) return;
  const blocks = [...new Set(rows.map((row) => row.block))];
  const names = [...new Set(rows.map((row) => row.head))];
  for (const { key, title, unit, show } of EFFECTS) {
    const most = Math.max(...rows.map((row) => Math.abs(row[key] ?? 0))) || 1;
    const body = element("tbody", {}, ...blocks.map((block) =>
      element("tr", {}, element("th", { scope: "row", textContent: `block ${block}` }), ...rows.filter((row) => row.block === block).map((row) => {
        const value = row[key];
        const button = element("button", { type: "button", textContent: value === null ? "–" : show(value), "aria-label": `Look at block ${block}, head ${row.head}` });
        const cell = element("td", { className: value > 0 ? "worse" : "better" }, button);
        cell.style.setProperty("--share", Math.abs(value ?? 0) / most);
        button.addEventListener("click", () => {
          choice.set({ view: 1, block, head: row.head, patch: choice.view === 1 ? choice.patch : middlePatch() });
          document.getElementById("attention").scrollIntoView({ behavior: "auto" });
        });
        return cell;
      }))));
    const head = element("thead", {}, element("tr", {}, element("td"), ...names.map((name) => element("th", { scope: "col", textContent: `head ${name}` }))));
    const caption = element("caption", {}, element("b", { textContent: title }), ` ${unit}`);
    root.querySelector(".grids").append(element("div", { className: "wide" }, element("table", {}, caption, head, body)));
  }
}
