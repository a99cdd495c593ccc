/* The table of heads, which sorts and whose rows choose a head to look at. */

const COLUMNS = [
  ...(OTHERS.length > 1 ? [{ key: "view", title: "View" }] : []),
  { key: "block", title: "Block" },
  { key: "head", title: "Head" },
  { key: "entropy", title: "Entropy", share: true },
  { key: "cycle_consistency", title: "Cycle", share: true },
  { key: "sink_share", title: "Sinks", share: true },
  { key: "agreement", title: "Agreement", share: true },
  { key: "true_matches", title: "True matches", share: true },
];

function heads(root) {
  const columns = COLUMNS.filter(({ key }) => DATA.heads.some((row) => row[key] !== null));
  let [sorted, falling] = [columns[0].key, false];
  const body = element("tbody");
  const titles = columns.map(({ key, title }) => {
    const button = element("button", { type: "button", textContent: title });
    const cell = element("th", { scope: "col" }, button);
    button.addEventListener("click", () => {
      [sorted, falling] = key === sorted ? [key, !falling] : [key, !["view", "block", "head", "entropy"].includes(key)];
      sort();
    });
    return cell;
  });
  const rows = DATA.heads.map((row, order) => {
    const cells = columns.map(({ key, share }) => {
      const text = share ? percent(row[key]) : String(row[key] ?? "mean");
      const cell = element("td", {}, share ? element("span", { textContent: text }) : text);
      if (share) cell.style.setProperty("--share", row[key] ?? 0);
      return cell;
    });
    const show = () => choice.set({ view: row.view - 1, other: 0, block: row.block, head: row.head, patch: choice.view === row.view - 1 ? choice.patch : middlePatch(row.view - 1) });
    const button = element("button", { type: "button", textContent: "show", "aria-label": `Show block ${row.block}, ${row.head === null ? "mean of all heads" : `head ${row.head}`}` });
    const line = element("tr", { className: row.head === null ? "mean" : "" }, ...cells, element("td", {}, button));
    line.addEventListener("click", () => {
      show();
      document.getElementById("attention").scrollIntoView({ behavior: "auto" });
    });
    return { row, order, line };
  });
  const sort = () => {
    const value = ({ row }) => row[sorted] ?? -1;
    rows.sort((a, b) => (falling ? -1 : 1) * (value(a) - value(b)) || a.order - b.order);
    body.replaceChildren(...rows.map(({ line }) => line));
    titles.forEach((cell, i) => cell.setAttribute("aria-sort", columns[i].key !== sorted ? "none" : falling ? "descending" : "ascending"));
  };
  choice.addEventListener("change", () => {
    for (const { row, line } of rows) line.classList.toggle("chosen", choice.view === row.view - 1 && row.block === choice.block && row.head === choice.head);
  });
  sort();
  const head = element("thead", {}, element("tr", {}, ...titles, element("th", {}, element("span", { className: "hidden", textContent: "Show" }))));
  root.querySelector(".scroll").append(element("table", {}, element("caption", { className: "hidden", textContent: "Heads of the attention between views" }), head, body));
}
