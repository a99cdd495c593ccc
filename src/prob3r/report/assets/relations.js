/* Three views or more: who attends to whom, block by block, and whose geometry fits whose. */

class Relations {
  constructor(root) {
    this.root = root;
    const { blocks, attention } = DATA.relations;
    this.most = Math.max(...attention.flat(2));
    this.table = part(root, "who");
    this.title = part(root, "block");
    this.maps = blocks.map((block, i) => {
      const canvas = element("canvas", { width: VIEWS.length, height: VIEWS.length });
      const button = element("button", { type: "button", className: "small" }, canvas, element("span", { textContent: `block ${block}` }));
      button.addEventListener("click", () => choice.set({ block }));
      this.paint(canvas, attention[i]);
      return button;
    });
    part(root, "maps").append(...this.maps);
    root.querySelector(".attention i").style.background = gradient(HEAT_RAMP);
    part(root, "most").textContent = percent(this.most);
    this.fill(part(root, "overlap"), DATA.relations.overlap, (cell, share) => cell.style.setProperty("--share", share));
    choice.addEventListener("change", () => this.update());
    this.update();
  }

  paint(canvas, matrix) {
    const context = canvas.getContext("2d");
    matrix.forEach((row, i) => row.forEach((share, j) => {
      context.fillStyle = css(ramp(HEAT_RAMP, share / this.most));
      context.fillRect(j, i, 1, 1);
    }));
  }

  /** A table of views by views; the first is the view of the row. */
  fill(table, matrix, shade) {
    const dense = VIEWS.length > 8;
    const label = (view) => {
      const dot = element("span", { className: "dot" });
      dot.style.background = colourOf(view);
      return [dot, dense ? String(view + 1) : `view ${view + 1}`];
    };
    const head = element("tr", {}, element("td"), ...VIEWS.map((j) => element("th", { scope: "col" }, ...label(j))));
    const rows = VIEWS.map((i) => element("tr", {}, element("th", { scope: "row" }, ...label(i)), ...VIEWS.map((j) => {
      const share = matrix[i][j];
      const cell = element("td", { title: share === null ? "" : `view ${i + 1} → view ${j + 1}: ${percent(share, 1)}` });
      cell.append(share === null || dense ? "" : percent(share));
      if (share !== null) shade(cell, share);
      return cell;
    })));
    table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  }

  update() {
    const at = Math.max(0, DATA.relations.blocks.indexOf(choice.block));
    this.maps.forEach((button, i) => button.setAttribute("aria-pressed", i === at));
    this.title.textContent = `Block ${DATA.relations.blocks[at]}`;
    this.fill(this.table, DATA.relations.attention[at], (cell, share) => {
      const level = share / this.most;
      cell.style.background = css(ramp(HEAT_RAMP, level));
      cell.style.color = level > 0.55 ? "var(--ink)" : "#fff";
    });
  }
}
